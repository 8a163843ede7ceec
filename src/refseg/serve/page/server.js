// Requests to the server that this page is of, with its token if it wants one.

export class Server {
  #token = "";

  /** `askToken` is called when the server wants a token, and returns a promise of one, or of "". */
  constructor(askToken) {
    this.askToken = askToken;
  }

  /** Sends values as JSON; as `fetch`. */
  post(path, values) {
    const headers = { "Content-Type": "application/json" };
    return this.fetch(path, { method: "POST", headers, body: JSON.stringify(values) });
  }

  /** Returns the answer of the server; where that is none, or an error, throws a sentence, with the status of the error. */
  async fetch(path, options = {}) {
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
      return this.fetch(path, options);
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
export async function greyValues(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  return { width, height, values: Uint8Array.from({ length: width * height }, (_, index) => data[4 * index]) };
}
