// The page of a review: one label after the other, with what a person decides on each.
import { COLOURS, drawMasks, shapeOf } from "../../page/draw.js";
import { greyValues, Server } from "../../page/server.js";
import { askToken } from "../../page/token.js";

const $ = (id) => document.getElementById(id);
const canvas = $("canvas");
const context = canvas.getContext("2d");
const server = new Server(askToken);

/** Labels that are fetched before they are shown, and labels that are kept. */
const AHEAD = 4;
const CACHED = 24;
const STEP = 0.04;

/** {name, count, to_review, verdicts}; a letter for each label: "-" undecided, "k" kept, "d" dropped. */
let run = null;
/** The number of the label that is shown, from 0, and what is known of it. */
let at = 0;
let shown = null;
/** By number: promises of {about, mask, bitmap}. */
const labels = new Map();
/** By number, what a person has changed and not kept yet: {expression, threshold, found}; found: an answer of the model. */
const drafts = new Map();

// ── labels and photos ───────────────────────────────────────────────────────────────────────────────────────────────

/** Returns a promise of a label and its photo, and keeps it for a while. */
function load(number) {
  const loading = labels.get(number) ?? read(number);
  labels.delete(number);
  labels.set(number, loading); // the last one used is the last one dropped
  loading.catch(() => labels.delete(number));
  return loading;
}

/** Fetches what is likely to be shown next, and drops what was not used for the longest time. */
function prefetch() {
  const undecided = run.verdicts.indexOf("-", at + 1);
  const likely = new Set([at + 1, at - 1]);
  for (let next = undecided; next >= 0 && likely.size < AHEAD + 2; next = run.verdicts.indexOf("-", next + 1)) likely.add(next);
  for (const number of likely) if (number >= 0 && number < run.count) load(number).catch(() => {});
  for (const [number, loading] of [...labels].slice(0, Math.max(0, labels.size - CACHED))) {
    if (number === at) continue;
    labels.delete(number);
    loading.then(({ bitmap }) => bitmap.close(), () => {});
  }
}

async function read(number) {
  const [about, bitmap] = await Promise.all([
    server.fetch(`review/items/${number}`).then((answer) => answer.json()),
    server.fetch(`review/photos/${number}`).then((answer) => answer.blob()).then((blob) => createImageBitmap(blob)),
  ]);
  return { about, bitmap, mask: about.mask && (await greyValues(about.mask)) };
}

async function show(number) {
  at = Math.min(Math.max(number, 0), run.count - 1);
  updatePlace();
  $("main").setAttribute("aria-busy", "true");
  const wanted = at;
  try {
    const label = await load(wanted);
    if (wanted !== at) return;
    shown = label;
    showError("");
  } catch (error) {
    if (wanted !== at) return;
    shown = null;
    showError(error.message);
  }
  $("main").setAttribute("aria-busy", "false");
  update();
  prefetch();
}

// ── what is shown ───────────────────────────────────────────────────────────────────────────────────────────────────

/** What is kept if the label is kept now: {expression, threshold}; threshold null: the model's own. */
function current() {
  const { expression, threshold } = drafts.get(at) ?? shown.about;
  return { expression, threshold };
}

/** The outlines of the mask that is shown; null: nothing fits. */
function shape() {
  const found = drafts.get(at)?.found;
  const place = { width: shown.bitmap.width, height: shown.bitmap.height };
  if (found) {
    const { threshold } = current();
    if (threshold === null && found.empty) return null;
    return outlines(found.probability, threshold ?? found.threshold, place);
  }
  // A mask thinner than a cell of what is shown has no cell of more than a half.
  return shown.mask && outlines(shown.mask, Math.min(0.5, highest(shown.mask) / 2), place);
}

function outlines(probability, threshold, place) {
  return highest(probability) > threshold ? shapeOf({ probability }, threshold, place) : null;
}

const highest = (map) => (map.highest ??= map.values.reduce((most, value) => Math.max(most, value), 0) / 255);
const percent = (value) => `${Math.round(100 * value)} %`;
const whole = (number) => number.toLocaleString("en");

const WORDS = { "-": "undecided", k: "kept", d: "dropped" };

function updatePlace() {
  $("place").value = at + 1;
  $("number").textContent = `${whole(at + 1)} of ${whole(run.count)}`;
  $("place").setAttribute("aria-valuetext", $("number").textContent);
  const decided = run.count - [...run.verdicts].filter((letter) => letter === "-").length;
  $("progress").textContent = `${whole(decided)} of ${whole(run.count)} decided, ${whole(leftToReview())} to look at`;
  $("previous").disabled = at === 0;
  $("next").disabled = at === run.count - 1;
}

/** Those that a person should look at come first. */
const leftToReview = () => run.verdicts.slice(0, run.to_review).filter((letter) => letter === "-").length;

function update() {
  updatePlace();
  for (const id of ["keep", "drop", "reset", "hide", "threshold", "expression"]) $(id).disabled = shown === null;
  const draft = drafts.get(at);
  $("verdict").dataset.verdict = run.verdicts[at];
  $("verdict").textContent = WORDS[run.verdicts[at]];
  if (!shown) {
    canvas.width = canvas.height = 0;
    canvas.setAttribute("aria-label", "The photo cannot be shown");
    $("score").textContent = "";
    return;
  }
  const { about } = shown;
  const { expression, threshold } = current();
  const answer = draft?.found ?? { score: about.score, empty: !about.mask };
  const score = answer.empty && threshold === null ? "nothing fits" : `score ${percent(answer.score)}`;
  $("score").textContent = [score, !draft && about.reason !== score && about.reason, draft && "changed"].filter(Boolean).join(" · ");
  $("expression").value = expression;
  $("asked").hidden = expression === about.asked;
  $("asked").textContent = `Was: ${about.asked}`;
  $("threshold").value = threshold ?? draft?.found?.threshold ?? 0.5;
  $("threshold-value").textContent = threshold === null ? "the model's own" : percent(threshold);
  $("threshold").setAttribute("aria-valuetext", $("threshold-value").textContent);
  $("reset").disabled = expression === about.asked && threshold === null;
  canvas.setAttribute("aria-label", `${about.image}, ${expression}: ${score}`);
  requestAnimationFrame(draw);
}

function draw() {
  const room = $("view").clientWidth;
  if (!shown || !room) return;
  const { bitmap } = shown;
  const most = Math.max(220, window.innerHeight * (window.innerWidth <= 800 ? 0.4 : 0.72));
  const screen = Math.min(room / bitmap.width, most / bitmap.height);
  const unit = window.devicePixelRatio;
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * screen)));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * unit);
  canvas.height = Math.round(height * unit);
  const outline = $("hide").getAttribute("aria-pressed") === "true" ? null : shape();
  const masks = outline ? [{ shape: outline, colour: COLOURS[0], label: percent((drafts.get(at)?.found ?? shown.about).score) }] : [];
  drawMasks(context, bitmap, masks, canvas.width / bitmap.width, unit);
  canvas.dataset.number = at + 1;
}

function say(text) {
  $("status").textContent = text;
}

function showError(text) {
  $("error").textContent = text;
}

// ── what a person decides ───────────────────────────────────────────────────────────────────────────────────────────

let busy = Promise.resolve();

/** Runs what needs the server, one after the other; an error is shown. Returns a promise of whether there was none. */
function inTurn(work) {
  busy = busy.then(work).then(() => true, (error) => {
    showError(error.message);
    return false;
  });
  return busy;
}

async function decide(verdict) {
  if (!shown) return;
  const [number, values] = [at, current()];
  const before = run.verdicts[number];
  run.verdicts[number] = verdict === "keep" ? "k" : "d";
  say(`${values.expression}: ${WORDS[run.verdicts[number]]}.`);
  // The next label is shown while the server writes the verdict.
  const saved = inTurn(async () => {
    try {
      await server.post("review/verdicts", { item: number, verdict, ...values });
      drafts.delete(number);
      labels.delete(number); // it is read again, with its verdict
    } catch (error) {
      run.verdicts[number] = before;
      await show(number);
      throw error;
    }
  });
  const next = undecidedAfter(number);
  if (next === null) {
    if (!(await saved)) return;
    await show(number);
    say("Every label is decided.");
  } else {
    await show(next);
  }
}

function undecidedAfter(number) {
  const after = run.verdicts.indexOf("-", number + 1);
  if (after >= 0) return after;
  const first = run.verdicts.indexOf("-");
  return first >= 0 ? first : null;
}

const undo = () =>
  inTurn(async () => {
    const { item } = await (await server.post("review/undo", {})).json();
    run = await overview();
    labels.delete(item);
    drafts.delete(item);
    await show(item);
    say(`Undone: ${shown?.about.expression}.`);
  });

/** Returns what the model answers to an expression about a photo, as soon as the model is loaded. */
async function ask(number, expression) {
  for (;;) {
    try {
      const found = await (await server.post("review/ask", { item: number, expression })).json();
      showError("");
      return { ...found, probability: await greyValues(found.probability) };
    } catch (error) {
      if (error.status !== 503) throw error;
      showError(error.message);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

const reword = (expression) => {
  const number = at;
  return inTurn(async () => {
    drafts.set(number, { expression, threshold: null, found: await ask(number, expression) });
    if (number !== at) return;
    update();
    say(`${expression}: ${$("score").textContent}`);
    $("expression").blur();
  });
};

/** Sets the threshold, or moves it by a step up or down; the model is asked for probabilities the first time. */
const changeThreshold = (change) => {
  const number = at;
  return inTurn(async () => {
    if (number !== at || !shown) return;
    const { expression, threshold } = current();
    const found = drafts.get(number)?.found ?? (await ask(number, expression));
    const wanted = change.value ?? (threshold ?? found.threshold) + change.step;
    drafts.set(number, { expression, threshold: Math.min(Math.max(Number(wanted.toFixed(2)), 0.02), 0.98), found });
    if (number === at) update();
  });
};

/** Returns to what the model answered to the expression of the run. */
function reset() {
  const number = at;
  if (!shown) return;
  if (shown.about.expression === shown.about.asked && shown.about.threshold === null) {
    drafts.delete(number);
    update();
  } else {
    reword(shown.about.asked);
  }
}

function hide() {
  const pressed = $("hide").getAttribute("aria-pressed") === "true";
  $("hide").setAttribute("aria-pressed", String(!pressed));
  draw();
}

async function write() {
  $("write").disabled = true;
  await inTurn(async () => {
    const { masks, dropped } = await (await server.post("review/labels", {})).json();
    showError("");
    $("progress").textContent = `Written: ${whole(masks)} masks, ${whole(dropped)} dropped`;
    say($("progress").textContent);
  });
  $("write").disabled = false;
}

// ── controls ────────────────────────────────────────────────────────────────────────────────────────────────────────

const KEYS = {
  k: () => decide("keep"),
  d: () => decide("drop"),
  u: undo,
  m: hide,
  r: () => $("expression").select(),
  Escape: reset,
  ArrowLeft: () => show(at - 1),
  ArrowRight: () => show(at + 1),
  ArrowUp: () => changeThreshold({ step: STEP }),
  ArrowDown: () => changeThreshold({ step: -STEP }),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("token-dialog").open || !run) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.target === $("expression")) {
    if (key === "Escape") {
      $("expression").value = current().expression;
      $("expression").blur();
    }
    return;
  }
  if (event.target.type === "range" && key.startsWith("Arrow")) return;
  if (!Object.hasOwn(KEYS, key) || (event.repeat && !key.startsWith("Arrow"))) return;
  event.preventDefault();
  KEYS[key]();
});

const BUTTONS = { keep: KEYS.k, drop: KEYS.d, undo, reset, hide, write, previous: KEYS.ArrowLeft, next: KEYS.ArrowRight };
for (const [id, run] of Object.entries(BUTTONS)) $(id).addEventListener("click", run);

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("expression").value.trim();
  if (text) reword(text);
  else showError("Type what to find, such as “the cat on the left”.");
});

$("threshold").addEventListener("input", () => changeThreshold({ value: $("threshold").valueAsNumber }));
$("place").addEventListener("input", () => show($("place").valueAsNumber - 1));
window.addEventListener("resize", draw);

// ── start ───────────────────────────────────────────────────────────────────────────────────────────────────────────

async function overview() {
  const answer = await (await server.fetch("review/run")).json();
  return { ...answer, verdicts: [...answer.verdicts] };
}

try {
  run = await overview();
  $("run").textContent = run.name;
  document.title = `${run.name} · refseg review`;
  $("place").max = run.count;
  $("write").disabled = false;
  await show(undecidedAfter(-1) ?? 0);
} catch (error) {
  showError(error.message);
}
document.body.dataset.ready = "true";
