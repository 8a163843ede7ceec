// The page: what a person does, and what is shown for it.
import { Engine } from "./engine.js";
import { EXAMPLES } from "./examples.js";
import { COLOURS, drawHeat, drawMasks, shapeOf } from "./draw.js";
import { cocoJson, cutOutSvg, download, fileName, maskPixels, maskPng, overlayPng } from "./save.js";
import { readLink, writeLink } from "./link.js";
import { askToken } from "./token.js";

const $ = (id) => document.getElementById(id);
const canvas = $("canvas");
const context = canvas.getContext("2d");
const engine = new Engine(askToken);

/** All that was opened: {name, blob, bitmap, width, height, example, button, model, handle, threshold, items, selected}. */
const photos = [];
let photo = null;
/** What the address asks for, until a photo is opened. */
let settings = readLink(location.hash);
let models = [];

// ── photos ──────────────────────────────────────────────────────────────────────────────────────────────────────────

async function open(blob, name, example = null) {
  say("");
  showError("");
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    showError(`${name} is not an image that this browser can show. Use a JPEG, PNG or WebP file.`);
    return;
  }
  const { width, height } = bitmap;
  const opened = { name, blob, bitmap, width, height, example: example?.name ?? null, items: [], selected: null };
  const texts = settings.expressions.length ? settings.expressions : (example?.expressions ?? []);
  Object.assign(opened, { model: chosenModel(), threshold: settings.threshold });
  opened.button = thumbnail(URL.createObjectURL(blob), name, () => show(opened));
  settings = { ...settings, expressions: [], threshold: null };
  photos.push(opened);
  $("photos").append(opened.button);
  show(opened);
  add(texts);
  $("expression").focus({ preventScroll: true });
}

/** Shows a photo, with all that was asked of it; or, for null, how to open one. */
function show(shown) {
  photo = shown;
  showError("");
  $("welcome").hidden = photo !== null;
  $("view").hidden = $("controls").hidden = $("another").hidden = photo === null;
  $("history").hidden = photos.length === 0;
  $("list").replaceChildren(...(photo?.items ?? []).map(({ row }) => row));
  for (const one of photos) one.button.setAttribute("aria-current", String(one === photo));
  if (photo) $("model").value = photo.model;
  update();
}

/** Returns a button with a small image. */
function thumbnail(source, title, run) {
  const button = element("button", { type: "button", className: "thumbnail", title });
  button.append(element("img", { src: source, alt: title }));
  button.addEventListener("click", run);
  return button;
}

async function openExample(example) {
  try {
    const answer = await fetch(`page/examples/${example.name}`);
    if (!answer.ok) throw new Error(`The example ${example.name} is missing (error ${answer.status}).`);
    await open(await answer.blob(), example.name, example);
  } catch (error) {
    showError(error.message);
  }
}

// ── expressions ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** Adds expressions to the photo that is shown, and asks for their masks. */
function add(texts) {
  const known = new Set(photo.items.map(({ text }) => text));
  const used = photo.items.map(({ colour }) => colour);
  const items = [...new Set(texts)].filter((text) => !known.has(text)).map((text) => ({ text, prediction: null, failed: false }));
  for (const item of items) {
    item.colour = COLOURS.find((colour) => !used.includes(colour)) ?? COLOURS[used.length % COLOURS.length];
    used.push(item.colour);
    item.row = makeRow(item);
    photo.items.push(item);
    $("list").append(item.row);
  }
  ask(photo, items);
}

/** Asks for the masks of some items of a photo, which may not be the one that is shown any more. */
async function ask(about, items) {
  const { model } = about;
  showError("");
  for (const item of items) Object.assign(item, { prediction: null, failed: false, word: null });
  update();
  if (!items.length) return;
  try {
    const predictions = await engine.segment(await encoded(about), items.map(({ text }) => text));
    if (about.model !== model) return; // another one has been asked since
    items.forEach((item, index) => (item.prediction = predictions[index]));
    if (items.includes(about.selected)) readWords(about, about.selected);
    if (about === photo) say(items.map((item) => `${item.text}: ${verdict(item)}`).join(". "));
  } catch (error) {
    if (about.model !== model) return;
    for (const item of items) item.failed = true;
    if (items.includes(about.selected)) about.selected = null;
    if (about === photo) showError(error.message);
  }
  if (about === photo) update();
}

/** Returns a promise of the engine's handle of a photo. */
function encoded(about) {
  about.handle ??= engine.encode(about.blob, about.model).catch((error) => {
    about.handle = null;
    throw error;
  });
  return about.handle;
}

function remove(from, item) {
  from.items = from.items.filter((other) => other !== item);
  item.row.remove();
  if (from.selected === item) from.selected = null;
}

const isFound = ({ prediction }) => prediction && (photo.threshold === null ? !prediction.empty : highest(prediction) > photo.threshold);
const highest = (prediction) => (prediction.highest ??= prediction.probability.values.reduce((most, value) => Math.max(most, value), 0) / 255);
const thresholdOf = ({ prediction }) => photo.threshold ?? prediction.threshold;
const shape = (item) => shapeOf(item.prediction, thresholdOf(item), photo);

function verdict(item) {
  if (item.failed) return "ask again";
  if (!item.prediction) return "looking…";
  if (!isFound(item)) return "nothing fits";
  return item.prediction.empty ? "found at this threshold" : `score ${percent(item.prediction.score)}`;
}

const percent = (value) => `${Math.round(100 * value)} %`;

function makeRow(item) {
  const row = element("li", { className: "row" });
  const select = element("button", { type: "button", className: "select", title: "Show where the model finds it" });
  select.append(element("span", { className: "number" }), element("span", { className: "text", textContent: item.text }), element("span", { className: "verdict" }));
  select.addEventListener("click", () => toggle(item));
  const close = element("button", { type: "button", className: "quiet remove", textContent: "×" });
  close.setAttribute("aria-label", `Remove ${item.text}`);
  close.addEventListener("click", () => {
    const place = photo.items.indexOf(item);
    remove(photo, item);
    update();
    say(`${item.text} removed.`);
    (photo.items[Math.min(place, photo.items.length - 1)]?.row.querySelector("button") ?? $("expression")).focus();
  });
  const words = element("div", { className: "buttons words", hidden: true });
  words.setAttribute("role", "group");
  words.setAttribute("aria-label", `Words of ${item.text}`);
  const save = element("div", { className: "buttons save", hidden: true });
  save.setAttribute("role", "group");
  save.setAttribute("aria-label", `Save ${item.text}`);
  save.append(
    action("Mask, PNG", async () => download(await maskPng(photo, pixels(item)), `${fileName(item.text)}.png`)),
    action("Cut-out, SVG", async () => download(await cutOutSvg(photo, shape(item), item.text), `${fileName(item.text)}.svg`)),
  );
  row.append(select, close, words, save);
  return row;
}

/** The model's own mask, or that of the chosen threshold. */
const pixels = (item) => maskPixels(photo, item.prediction, photo.threshold === null ? null : shape(item));

/** Shows the heat map of an item, once it is answered, or all masks again; an item that failed is asked for again. */
function toggle(item) {
  if (item.failed) {
    ask(photo, [item]);
    return;
  }
  photo.selected = photo.selected === item ? null : item;
  item.word = null;
  update();
  if (!photo.selected) say("All masks.");
  else if (item.prediction) say(`Heat map of ${item.text}.`);
  if (photo.selected && item.prediction) readWords(photo, item);
}

// ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What the model of a photo can tell of words, as the engine says: "attention", "patches" or null. */
const wordSource = ({ model }) => models.find(({ name }) => name === model)?.words ?? null;

/** Asks where each word of an item looks, once, and shows its words as buttons. */
async function readWords(about, item) {
  const { prediction } = item;
  if (prediction.words || !wordSource(about)) return;
  try {
    prediction.words = await engine.words(await encoded(about), item.text);
  } catch (error) {
    if (about === photo) showError(error.message);
    return;
  }
  // Another model may have been asked since.
  if (item.prediction === prediction) item.row.querySelector(".words").replaceChildren(...prediction.words.words.map((word) => wordButton(item, word)));
  if (about === photo) update();
}

/** Returns the button of a word, whose map is shown while the pointer or the focus is on it. */
function wordButton(item, word) {
  const button = element("button", { type: "button", className: "word", textContent: word.word });
  const look = (shown) => {
    if (item.word === shown) return;
    item.word = shown;
    update();
    if (shown) say(`Heat map: ${legend(item)}.`);
  };
  for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => look(word));
  button.addEventListener("blur", () => look(null));
  // A tap ends with this event too.
  button.addEventListener("pointerleave", ({ pointerType }) => {
    if (pointerType !== "touch" && document.activeElement !== button) look(null);
  });
  return button;
}

/** What the map that is shown of the chosen item is. */
function legend({ text, word }) {
  if (!word) return `probability of “${text}”`;
  return wordSource(photo) === "attention" ? `attention to “${word.word}”` : `probability of “${word.word}” alone`;
}

// ── what is shown ───────────────────────────────────────────────────────────────────────────────────────────────────

function update() {
  $("hint").hidden = Boolean(photo?.items.length);
  $("expression").placeholder = photo?.items.length ? "something else" : "the cat on the left";
  if (!photo) return;
  const focused = document.activeElement;
  const { items, selected, threshold } = photo;
  const mapped = selected?.prediction ? selected : null; // the item whose heat map is shown
  items.forEach((item, index) => {
    const [select, , words, save] = item.row.children;
    select.setAttribute("aria-pressed", String(item === selected));
    item.row.setAttribute("aria-busy", String(!item.prediction && !item.failed));
    item.row.classList.toggle("missing", item.failed || (Boolean(item.prediction) && !isFound(item)));
    item.row.style.setProperty("--colour", item.colour);
    const [number, , answer] = select.children;
    number.textContent = index + 1;
    answer.textContent = verdict(item);
    save.hidden = item !== selected || !isFound(item);
    words.hidden = item !== selected || !item.prediction?.words;
    if (!words.hidden) item.prediction.words.words.forEach((word, place) => words.children[place].setAttribute("aria-pressed", String(word === item.word)));
  });
  const answered = items.filter(({ prediction }) => prediction);
  $("threshold").disabled = !answered.length;
  const own = (mapped ?? answered[0])?.prediction.threshold ?? 0.5;
  $("threshold").value = threshold ?? own;
  $("threshold-value").textContent = threshold === null ? "the model's own" : percent(threshold);
  $("threshold").setAttribute("aria-valuetext", $("threshold-value").textContent);
  $("threshold-reset").hidden = threshold === null;
  for (const id of ["save-png", "save-coco"]) $(id).disabled = !answered.some(isFound);
  $("legend").hidden = !mapped;
  $("legend-text").textContent = mapped ? legend(mapped) : "";
  $("legend-highest").textContent = percent(mapped?.word ? mapped.prediction.words.highest : 1);
  const found = items.map((item, index) => `${index + 1}, ${item.text}: ${verdict(item)}`);
  canvas.setAttribute("aria-label", mapped ? `Heat map on ${photo.name}: ${legend(mapped)}` : [photo.name, ...found].join(". "));
  const count = items.length === 1 ? "1 expression" : `${items.length} expressions`;
  photo.button.title = photo.button.firstChild.alt = `${photo.name}, ${count}`;
  history.replaceState(null, "", writeLink(currentSettings()) || location.pathname + location.search);
  requestAnimationFrame(draw);
  // The focus would be lost with a control that is now hidden or disabled.
  if (focused.disabled || !focused.checkVisibility()) (focused.closest(".row")?.firstChild ?? $("expression")).focus();
}

const currentSettings = () => ({
  expressions: photo.items.map(({ text }) => text),
  threshold: photo.threshold,
  model: models.length > 1 ? photo.model : null,
  example: photo.example,
});

/** The masks that are shown: [{shape, colour, label, item}]. */
const masks = () =>
  photo.items
    .map((item, index) => ({ item, colour: item.colour, label: label(item, index) }))
    .filter(({ item }) => isFound(item))
    .map((mask) => ({ ...mask, shape: shape(mask.item) }));

const label = ({ prediction }, index) => `${index + 1}${prediction && !prediction.empty ? ` · ${percent(prediction.score)}` : ""}`;

function draw() {
  const room = $("view").clientWidth;
  if (!photo || !room) return;
  const most = Math.max(240, window.innerHeight * (window.innerWidth < 800 ? 0.5 : 0.74));
  const screen = Math.min(room / photo.width, most / photo.height); // screen pixels for one of the photo
  const unit = window.devicePixelRatio;
  const [width, height] = [photo.width, photo.height].map((side) => Math.max(1, Math.round(side * screen)));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * unit);
  canvas.height = Math.round(height * unit);
  const zoom = canvas.width / photo.width;
  const { selected } = photo;
  if (selected?.prediction) {
    const map = selected.word?.map ?? selected.prediction.probability;
    drawHeat(context, photo.bitmap, map, isFound(selected) && shape(selected), zoom, unit);
  } else {
    drawMasks(context, photo.bitmap, masks(), zoom, unit);
  }
}

canvas.addEventListener("click", ({ offsetX, offsetY }) => {
  if (!photo) return;
  if (photo.selected) {
    toggle(photo.selected);
    return;
  }
  const [x, y] = [(offsetX * photo.width) / canvas.clientWidth, (offsetY * photo.height) / canvas.clientHeight];
  const hit = masks().filter((mask) => new OffscreenCanvas(1, 1).getContext("2d").isPointInPath(mask.shape.path, x, y));
  const size = ({ shape: { box: [left, top, right, bottom] } }) => (right - left) * (bottom - top);
  hit.sort((first, second) => size(first) - size(second)); // the smallest lies in front
  if (hit.length) toggle(hit[0].item);
});

function say(text) {
  $("status").textContent = text;
}

function showError(text) {
  $("error").textContent = text;
}

// ── controls ────────────────────────────────────────────────────────────────────────────────────────────────────────

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("expression").value.trim();
  if (!text) showError("Type what to find, such as “the cat on the left”.");
  else if (!photo) showError("Choose a photo first.");
  else {
    $("expression").value = "";
    add([text]);
  }
});

$("threshold").addEventListener("input", () => {
  photo.threshold = $("threshold").valueAsNumber;
  update();
});

$("threshold-reset").addEventListener("click", () => {
  photo.threshold = null;
  update();
  $("threshold").focus();
});

$("model").addEventListener("change", () => {
  settings.model = $("model").value;
  if (!photo) return;
  Object.assign(photo, { model: settings.model, handle: null });
  ask(photo, [...photo.items]);
});

$("save-png").addEventListener("click", async () => download(await overlayPng(photo, masks()), `${stem()}-masks.png`));

$("save-coco").addEventListener("click", () => {
  const answers = photo.items.filter(isFound).map((item) => ({ text: item.text, score: item.prediction.score, mask: pixels(item) }));
  download(cocoJson(photo, answers), `${stem()}-coco.json`);
});

const stem = () => fileName(photo.name.replace(/\.\w+$/, ""));

$("copy-link").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    say("Link copied.");
    $("copy-link").textContent = "Copied";
    setTimeout(() => ($("copy-link").textContent = "Copy link"), 1500);
  } catch {
    showError("The browser does not let this page copy. Copy the address from its address bar.");
  }
});

$("another").addEventListener("click", () => {
  show(null);
  $("choose").focus();
});

for (const id of ["choose", "camera"]) {
  $(id).addEventListener("change", ({ target }) => {
    const [file] = target.files;
    target.value = ""; // so that the same file can be chosen again
    if (file) open(file, file.name);
  });
}

document.addEventListener("paste", ({ clipboardData }) => {
  const [file] = clipboardData.files;
  if (file) open(file, file.name || "pasted image");
});

for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
}
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (file) open(file, file.name);
});

document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape" && photo?.selected) toggle(photo.selected);
});

window.addEventListener("resize", draw);

window.addEventListener("hashchange", () => {
  settings = readLink(location.hash);
  if (!photo) return;
  for (const item of photo.items) remove(photo, item);
  photo.threshold = settings.threshold;
  const model = chosenModel();
  if (model !== photo.model) Object.assign(photo, { model, handle: null });
  $("model").value = model;
  add(settings.expressions);
  settings.expressions = [];
});

// ── start ───────────────────────────────────────────────────────────────────────────────────────────────────────────

const chosenModel = () => (models.some(({ name }) => name === settings.model) ? settings.model : $("model").value);

/** Returns what the engine says of its models, as soon as they are loaded. */
async function loadedModels() {
  for (;;) {
    try {
      return await engine.models();
    } catch (error) {
      if (error.status !== 503) throw error;
      showError(error.message);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

function action(text, run) {
  const button = element("button", { type: "button", textContent: text });
  button.addEventListener("click", run);
  return button;
}

function element(name, properties) {
  return Object.assign(document.createElement(name), properties);
}

async function start() {
  $("examples").append(
    ...EXAMPLES.map((example) => thumbnail(`page/examples/${example.name}`, example.title, () => openExample(example))),
  );
  try {
    const answer = await loadedModels();
    showError("");
    models = answer.models;
    $("model").append(...models.map(({ name }) => new Option(name, name, name === answer.default, name === answer.default)));
    $("model").value = chosenModel();
    $("model-choice").hidden = models.length < 2;
  } catch (error) {
    showError(error.message);
    return;
  }
  const example = EXAMPLES.find(({ name }) => name === settings.example);
  if (example) await openExample(example);
}

await start();
document.body.dataset.ready = "true";
