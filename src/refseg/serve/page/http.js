// Asks the server. An engine has models(), encode(blob, model), segment(handle, expressions) and words(handle, expression).

export class HttpEngine {
  #token = "";

  /** `askToken` is called when the server wants a token, and returns a promise of one, or of "". */
  constructor(askToken) {
    this.askToken = askToken;
  }

  /** Returns {default, models: [{name, words, ...}]}; words: "attention" or "patches", or null: the engine has no words(). */
  async models() {
    return (await this.#fetch("v1/models")).json();
  }

  /** Returns a handle; model "" is the server's first. With the handle expressions are answered without sending the image. */
  async encode(blob, model) {
    const form = new FormData();
    form.append("image", blob, "image");
    if (model) form.append("model", model);
    const answer = await this.#fetch("v1/encode", { method: "POST", body: form });
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
      this.#fetch("v1/segment", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ image: handle.id, model: handle.model || null, expressions, ...fields }),
      });
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

  async #fetch(path, options = {}) {
    const headers = { ...options.headers, ...(this.#token && { Authorization: `Bearer ${this.#token}` }) };
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch {
      throw new Error("The server does not answer. Check that it runs, then try again.");
    }
    if (answer.ok) return answer;
    if (answer.status === 401) {
      this.#token = await this.askToken();
      if (!this.#token) throw new Error("This server answers only with its token.");
      return this.#fetch(path, options);
    }
    const { error } = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(sentence(error ?? `The server answered with the error ${answer.status}.`)), {
      status: answer.status,
    });
  }
}

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** Returns the values of a grey PNG in base64: {width, height, values: 0..255}. */
async function greyValues(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  return { width, height, values: Uint8Array.from({ length: width * height }, (_, index) => data[4 * index]) };
}
