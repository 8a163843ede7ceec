// Computes an exported model in the browser, by onnxruntime-web: an engine without a server (scripts/build_site.py).
import * as ort from "./ort/ort.wasm.min.mjs";
import { Tokenizer } from "./clip_bpe.js";
import { decide } from "./decision.js";
import { Frame } from "./frame.js";
import { encodeRle } from "./rle.js";

const SHOWN_SIDE = 512; // of a map of probabilities, pixels at most
const address = (name) => new URL(name, import.meta.url).href;
ort.env.wasm.wasmPaths = address("ort/");
ort.env.wasm.numThreads = 1; // several need headers that static hosts do not send

export class OnnxEngine {
  #loading;

  /** Returns {default, models: [{name, words}]}, and starts to fetch the model; words: "attention", or null: no words(). */
  async models() {
    const [about, words] = await Promise.all(["model/export.json", "model/words.json"].map(async (name) => (await fetched(name)).json()));
    const name = about.about.export.source;
    this.#loading = load(about);
    this.#loading.catch(() => {}); // who asks the model is told
    return { default: name, models: [{ name, words }] };
  }

  /** Returns a handle with all that depends on the image alone. */
  async encode(blob) {
    const { inputs, image } = await this.#loading;
    const bitmap = await createImageBitmap(blob);
    const { width, height } = bitmap;
    const context = new OffscreenCanvas(width, height).getContext("2d", { alpha: false });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0);
    const size = inputs.image_size;
    const square = new Frame(height, width, size).letterbox(context.getImageData(0, 0, width, height).data, inputs.mean, inputs.std);
    const features = await image.run({ pixels: new ort.Tensor("float32", square, [1, 3, size, size]) });
    return { width, height, features };
  }

  /** Returns a prediction for each expression: {expression, score, empty, threshold, rle, probability}. */
  async segment(image, expressions) {
    const { inputs, decision } = await this.#loading;
    const { width, height } = image;
    const logits = await this.#answer(image, expressions, "logits");
    const [rows, columns] = logits.dims.slice(2);
    const small = shownSize(image);
    return expressions.map((text, number) => {
      const scores = logits.data.slice(number * rows * columns, (number + 1) * rows * columns).map((value) => 1 / (1 + Math.exp(-value)));
      const restored = (frame) => frame.restore(scores, rows, columns).map((value) => Math.min(Math.max(value, 0), 1));
      const { mask, ...found } = decide(restored(new Frame(height, width, inputs.image_size)), decision);
      const shown = restored(new Frame(...small, inputs.image_size));
      return {
        expression: text,
        ...found,
        rle: encodeRle(mask, width, height),
        probability: { width: small[1], height: small[0], values: Uint8Array.from(shown, (value) => Math.round(255 * value)) },
      };
    });
  }

  /** Returns where each word of an expression looks: {highest: what a value of 255 is, words: [{word, map}]}. */
  async words(image, text) {
    const { inputs, tokenizer } = await this.#loading;
    const attention = await this.#answer(image, [text], "attention");
    const [rows, columns] = attention.dims.slice(2);
    const cells = rows * columns;
    const [height, width] = shownSize(image);
    const maps = tokenizer.words(text).map(({ word, start, end }) => {
      const sum = Float32Array.from({ length: cells }, (_, cell) => {
        let all = 0;
        for (let place = start; place < end; place++) all += attention.data[place * cells + cell];
        return all;
      });
      const restored = new Frame(height, width, inputs.image_size).restore(sum, rows, columns);
      return { word, values: restored.map((value) => Math.min(Math.max(value, 0), 1)) };
    });
    const highest = maps.reduce((most, { values }) => values.reduce((first, second) => Math.max(first, second), most), 0);
    const grey = (value) => Math.round((255 * value) / (highest || 1));
    return { highest, words: maps.map(({ word, values }) => ({ word, map: { width, height, values: Uint8Array.from(values, grey) } })) };
  }

  /** Returns an output of the graph that answers expressions; those that are not asked for cost next to nothing. */
  async #answer({ features }, expressions, output) {
    const { expression, tokenizer } = await this.#loading;
    const shape = [expressions.length, tokenizer.length];
    const { tokens, padding } = tokenizer.encode(expressions);
    const given = { tokens: new ort.Tensor("int64", tokens, shape), padding: new ort.Tensor("bool", padding, shape) };
    for (const [name, feature] of Object.entries(features)) given[`image.${name}`] = feature;
    return (await expression.run(given, [output]))[output];
  }
}

/** Returns height and width of the maps of an image. */
function shownSize({ width, height }) {
  const scale = Math.min(1, SHOWN_SIDE / Math.max(width, height));
  return [height, width].map((side) => Math.max(1, Math.round(side * scale)));
}

async function load({ inputs, decision }) {
  const [image, expression, merges] = await Promise.all([session("image.onnx"), session("expression.onnx"), fetched("model/bpe_merges.txt")]);
  return { inputs, decision, image, expression, tokenizer: new Tokenizer(await merges.text(), inputs.word_length) };
}

function session(name) {
  const weights = { path: `${name}.data`, data: address(`model/${name}.data`) };
  return ort.InferenceSession.create(address(`model/${name}`), { executionProviders: ["wasm"], externalData: [weights] });
}

async function fetched(name) {
  const answer = await fetch(address(name));
  if (!answer.ok) throw new Error(`The file ${name} of this site cannot be read (error ${answer.status}).`);
  return answer;
}
