// The outlines of a mask: the lines at which a map of probabilities crosses a threshold (marching squares).

const [TOP, RIGHT, BOTTOM, LEFT] = [0, 1, 2, 3];
// By which corners of a cell are inside (top left 1, top right 2, bottom right 4, bottom left 8): from which side of the
// cell to which the outline goes, with the inside to its left.
const LINES = [
  [], [[LEFT, TOP]], [[TOP, RIGHT]], [[LEFT, RIGHT]],
  [[RIGHT, BOTTOM]], [[LEFT, TOP], [RIGHT, BOTTOM]], [[TOP, BOTTOM]], [[LEFT, BOTTOM]],
  [[BOTTOM, LEFT]], [[BOTTOM, TOP]], [[TOP, RIGHT], [BOTTOM, LEFT]], [[BOTTOM, RIGHT]],
  [[RIGHT, LEFT]], [[RIGHT, TOP]], [[TOP, LEFT]], [],
];

/**
 * Returns closed outlines, each a list of [x, y] in cells of the map: 0, 0 is the top left corner of the first cell.
 * Values lie in 0..255, the threshold in 0..1; what lies outside the map is below it.
 */
export function contours({ width, height, values }, threshold) {
  const level = 255 * threshold;
  const columns = width + 2;
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && values[y * width + x] > level;
  // A side is named by the point (x, y) that it starts from: to the right (even) or down (odd).
  const side = (x, y, down) => 2 * ((y + 1) * columns + x + 1) + down;
  const next = new Map();
  for (let y = -1; y < height; y++) {
    for (let x = -1; x < width; x++) {
      const corners = inside(x, y) + 2 * inside(x + 1, y) + 4 * inside(x + 1, y + 1) + 8 * inside(x, y + 1);
      if (corners === 0 || corners === 15) continue;
      const sides = [side(x, y, 0), side(x + 1, y, 1), side(x, y + 1, 0), side(x, y, 1)];
      for (const [from, to] of LINES[corners]) next.set(sides[from], sides[to]);
    }
  }
  const point = (name) => {
    const x = ((name >> 1) % columns) - 1;
    const y = Math.floor((name >> 1) / columns) - 1;
    return name & 1
      ? [border(x + 0.5, width), crossing(y, height, values[y * width + x], values[(y + 1) * width + x], level)]
      : [crossing(x, width, values[y * width + x], values[y * width + x + 1], level), border(y + 0.5, height)];
  };
  const outlines = [];
  for (const start of next.keys()) {
    const outline = [];
    for (let name = start; next.has(name); ) {
      const following = next.get(name);
      next.delete(name);
      outline.push(point(name));
      name = following;
    }
    if (outline.length) outlines.push(outline);
  }
  return outlines;
}

/** Returns where, between the middles of two cells, the values cross the level: at the border, if one is outside. */
function crossing(at, length, first, second, level) {
  if (at < 0) return 0;
  if (at >= length - 1) return length;
  return at + 0.5 + (level - first) / (second - first);
}

const border = (at, length) => Math.min(Math.max(at, 0), length);

/** Returns outlines as the data of an SVG path. */
export function pathData(outlines) {
  const place = ([x, y]) => `${+x.toFixed(1)} ${+y.toFixed(1)}`;
  return outlines.map((outline) => `M${outline.map(place).join("L")}Z`).join("");
}
