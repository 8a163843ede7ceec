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

  /** Returns {default, models: [{name}]}, and starts to fetch the model. */
  async models() {
    const about = await (await fetched("model/export.json")).json();
    const name = about.about.export.source;
    this.#loading = load(about);
    this.#loading.catch(() => {}); // who asks the model is told
    return { default: name, models: [{ name, words: null }] };
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
  async segment({ width, height, features }, expressions) {
    const { inputs, decision, expression, tokenizer } = await this.#loading;
    const shape = [expressions.length, tokenizer.length];
    const { tokens, padding } = tokenizer.encode(expressions);
    const given = { tokens: new ort.Tensor("int64", tokens, shape), padding: new ort.Tensor("bool", padding, shape) };
    for (const [name, feature] of Object.entries(features)) given[`image.${name}`] = feature;
    const { logits } = await expression.run(given, ["logits"]);
    const [rows, columns] = logits.dims.slice(2);
    const scale = Math.min(1, SHOWN_SIDE / Math.max(width, height));
    const small = [height, width].map((side) => Math.max(1, Math.round(side * scale)));
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
