// CLIP's tokenizer: what src/refseg/inputs/clip_bpe.py computes. Text with damaged encoding or HTML is not repaired.

const [START, END] = [49406, 49407];
const WORD_END = "</w>";
const PIECES = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/giu;

export class Tokenizer {
  #ranks;
  #ids;

  /** merges: the text of bpe_merges.txt, one merge a line; length: the tokens that an expression is padded or cut to. */
  constructor(merges, length) {
    const pairs = merges.trim().split("\n");
    const alphabet = [...BYTES].sort();
    const entries = [...alphabet, ...alphabet.map((letter) => letter + WORD_END), ...pairs.map((pair) => pair.replace(" ", ""))];
    this.length = length;
    this.#ranks = new Map(pairs.map((pair, rank) => [pair, rank]));
    this.#ids = new Map(entries.map((entry, id) => [entry, id]));
  }

  /** Returns {tokens, padding}: for each expression start token, its tokens, end token, then zeros where padding is 1. */
  encode(expressions) {
    const tokens = new BigInt64Array(expressions.length * this.length);
    const padding = new Uint8Array(tokens.length).fill(1);
    expressions.forEach((text, number) => {
      const row = [START, ...this.#pieces(text).slice(0, this.length - 2), END];
      tokens.set(row.map(BigInt), number * this.length);
      padding.fill(0, number * this.length, number * this.length + row.length);
    });
    return { tokens, padding };
  }

  /** Returns the words of an expression as written, each with the places of its tokens, [start, end); without those cut off. */
  words(text) {
    let end = 1; // after the start token
    return text.normalize("NFC").trim().split(/\s+/).flatMap((word) => {
      const start = end;
      end = Math.min(start + this.#pieces(word).length, this.length - 1);
      return end > start ? [{ word, start, end }] : [];
    });
  }

  #pieces(text) {
    const cleaned = text.normalize("NFC").replace(/[‘’]/g, "'").replace(/[“”]/g, '"').toLowerCase();
    return (cleaned.match(PIECES) ?? []).flatMap((piece) => this.#merged(piece).map((part) => this.#ids.get(part)));
  }

  /** Returns the parts of a piece: its bytes, of which the pair of the lowest rank is merged until none is left. */
  #merged(piece) {
    const parts = Array.from(new TextEncoder().encode(piece), (byte) => BYTES[byte]);
    parts[parts.length - 1] += WORD_END;
    for (;;) {
      let [best, at] = [Infinity, -1];
      for (let index = 0; index + 1 < parts.length; index++) {
        const rank = this.#ranks.get(`${parts[index]} ${parts[index + 1]}`);
        if (rank < best) [best, at] = [rank, index];
      }
      if (at < 0) return parts;
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }
}

/** The character that stands for each byte: itself, if it is printable Latin-1, or one from 256 on. */
const BYTES = (() => {
  const printable = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let other = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : other++));
})();
