// Asks the server. An engine has models(), encode(blob, model), segment(handle, expressions) and words(handle, expression).
import { greyValues, Server } from "./server.js";

export class HttpEngine {
  #server;

  /** `askToken` is called when the server wants a token, and returns a promise of one, or of "". */
  constructor(askToken) {
    this.#server = new Server(askToken);
  }

  /** Returns {default, models: [{name, words, ...}]}; words: "attention" or "patches", or null: the engine has no words(). */
  async models() {
    return (await this.#server.fetch("v1/models")).json();
  }

  /** Returns a handle; model "" is the server's first. With the handle expressions are answered without sending the image. */
  async encode(blob, model) {
    const form = new FormData();
    form.append("image", blob, "image");
    if (model) form.append("model", model);
    const answer = await this.#server.fetch("v1/encode", { method: "POST", body: form });
    const { image, width, height } = await answer.json();
    return { model, blob, id: image, width, height };
  }

  /** Returns a prediction for each expression: {expression, score, empty, threshold, rle, probability}. */
  async segment(handle, expressions) {
    const predictions = await this.#ask(handle, expressions, { masks: "rle", probability: true });
    return Promise.all(
      predictions.map(async ({ mask, probability, ...rest }) => ({
        ...rest,
        rle: mask,
        probability: await greyValues(probability),
      })),
    );
  }

  /** Returns where each word of an expression looks: {highest: what a value of 255 is, words: [{word, map}]}. */
  async words(handle, expression) {
    const [{ words, words_highest: highest }] = await this.#ask(handle, [expression], { masks: "none", words: true });
    return { highest, words: await Promise.all(words.map(async ({ word, map }) => ({ word, map: await greyValues(map) }))) };
  }

  /** Returns the predictions of the server; it is sent the image again if it has dropped that. */
  async #ask(handle, expressions, fields) {
    const request = () =>
      this.#server.post("v1/segment", { image: handle.id, model: handle.model || null, expressions, ...fields });
    let answer;
    try {
      answer = await request();
    } catch (error) {
      if (error.status !== 404) throw error;
      handle.id = (await this.encode(handle.blob, handle.model)).id; // the server has dropped the image
      answer = await request();
    }
    return (await answer.json()).predictions;
  }
}
