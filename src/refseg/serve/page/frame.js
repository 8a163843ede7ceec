// How an image lies in the square that a model sees, and how scores of the square return to the image's size: what
// src/refseg/inputs/frame.py computes, with the same rounding of positions to 1/32 of a pixel.

const CUBIC = -0.75; // Keys' parameter of cubic convolution

/** The place of an image of height x width pixels in a square of size x size: scaled to fit, centred, with a border. */
export class Frame {
  constructor(height, width, size) {
    Object.assign(this, { height, width, size, scale: Math.min(size / height, size / width) });
  }

  /**
   * Returns the square as a model takes it in, (3, size, size): red, green and blue in 0..1, less mean, divided by std.
   * rgba: the image, row by row, 0..255.
   */
  letterbox(rgba, mean, std) {
    const [rowSlope, rowStart] = this.#forward(this.height);
    const [slope, start] = this.#forward(this.width);
    const rows = taps(this.size, (row) => rint((row / rowSlope - rowStart / rowSlope) * 1024), this.height);
    const columns = taps(this.size, (column) => rint((column / slope) * 1024) + rint((-start / slope) * 1024), this.width);
    const square = new Float32Array(3 * this.size ** 2);
    for (let channel = 0; channel < 3; channel++) {
      const plane = Uint8Array.from({ length: this.height * this.width }, (_, index) => rgba[4 * index + channel]);
      const border = rint(Math.fround(mean[channel]) * 255);
      const mixed = resampled(plane, this.width, rows, columns, border);
      mixed.forEach((value, index) => {
        const level = Math.min(Math.max(Math.floor(value + border + 0.5), 0), 255);
        square[channel * this.size ** 2 + index] = (level / 255 - mean[channel]) / std[channel];
      });
    }
    return square;
  }

  /** Returns scores of the square, height x width row by row, at the image's own size. */
  restore(scores, height, width) {
    const square = resampled(scores, width, enlargement(height, this.size), enlargement(width, this.size));
    const [rowSlope, rowStart] = this.#forward(this.height);
    const [slope, start] = this.#forward(this.width);
    const rows = taps(this.height, (row) => rint((row * rowSlope + rowStart) * 1024), this.size);
    const columns = taps(this.width, (column) => rint(column * slope * 1024) + rint(start * 1024), this.size);
    return resampled(square, this.size, rows, columns);
  }

  /** Slope and offset from a position on one axis of the image to the square. */
  #forward(length) {
    const side = length * this.scale;
    const border = (this.size - side) / 2;
    const [start, end] = [Math.fround(border), Math.fround(side + border)];
    return [(end - start) / length || this.scale, start];
  }
}

/** Rounds to the nearest integer, halves to the even one. */
const rint = (value) => (Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value));

/** The weights of the four pixels around a position, from its fraction of a pixel. */
function cubic(part) {
  const near = (d) => ((CUBIC + 2) * d - (CUBIC + 3)) * d * d + 1;
  const far = (d) => ((CUBIC * d - 5 * CUBIC) * d + 8 * CUBIC) * d - 4 * CUBIC;
  return [far(1 + part), near(part), near(1 - part), far(2 - part)];
}

/** The input pixels of each of `count` output pixels with their weights; `at` gives positions in 1/1024 of a pixel. */
function taps(count, at, length) {
  return Array.from({ length: count }, (_, place) => {
    const steps = (at(place) + 16) >> 5; // to the nearest 1/32
    const weights = cubic((steps & 31) / 32).map((weight, offset) => [(steps >> 5) + offset - 1, weight]);
    return weights.filter(([index, weight]) => index >= 0 && index < length && weight !== 0);
  });
}

/** The same to enlarge `side` values to `size`, with aligned corners. */
function enlargement(side, size) {
  return Array.from({ length: size }, (_, place) => {
    const at = Math.fround(place * Math.fround((side - 1) / Math.max(size - 1, 1)));
    const first = Math.floor(at);
    return cubic(at - first).map((weight, offset) => [Math.min(Math.max(first + offset - 1, 0), side - 1), weight]);
  });
}

/** Interpolates values less `border`, `width` in each row, along both axes; outside they are 0. */
function resampled(values, width, rows, columns, border = 0) {
  const lines = mixed(values, width, rows, border);
  const turned = mixed(transposed(lines, width), rows.length, columns, 0);
  return transposed(turned, rows.length);
}

function mixed(values, width, rows, border) {
  const result = new Float32Array(rows.length * width);
  rows.forEach((sources, row) => {
    for (const [index, weight] of sources) {
      const [to, from] = [row * width, index * width];
      for (let column = 0; column < width; column++) result[to + column] += weight * (values[from + column] - border);
    }
  });
  return result;
}

function transposed(values, width) {
  const height = values.length / width;
  const result = new Float32Array(values.length);
  for (let row = 0, at = 0; row < height; row++) {
    for (let column = 0; column < width; column++) result[column * height + row] = values[at++];
  }
  return result;
}
