// Draws a photo with coloured masks, or with the heat map of one of them.
import { contours, pathData } from "./contours.js";

/** Light colours that can be told apart with common colour blindness too; dark text is readable on them. */
export const COLOURS = ["#ff7fb0", "#5cc8f2", "#ffcf5c", "#7fdc9a", "#b9a7ff", "#ff9d6b", "#d7e36b", "#9fe3dc"];
const INK = "#16171b";
const DARKENED = "rgb(10 11 16 / 0.42)";
/** From probability 0 to 1: dark violet, red, orange, pale yellow; lightness rises all the way. */
const HEAT = [[10, 7, 34], [86, 15, 109], [165, 44, 96], [225, 100, 43], [252, 174, 18], [252, 255, 164]];

/**
 * Returns the outlines of what is above a threshold, in pixels of the photo: {path, data, box: [left, top, right, bottom],
 * highest: [x, y]}; data is the path as SVG writes it, highest the point nearest to the top.
 */
export function shapeOf({ probability }, threshold, { width, height }) {
  const scale = [width / probability.width, height / probability.height];
  const outlines = contours(probability, threshold).map((outline) => outline.map(([x, y]) => [x * scale[0], y * scale[1]]));
  const data = pathData(outlines);
  let [left, top, right, bottom] = [width, height, 0, 0];
  let highest = [0, 0];
  for (const [x, y] of outlines.flat()) {
    if (y < top) highest = [x, y];
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  }
  return { path: new Path2D(data), data, box: [left, top, right, bottom], highest };
}

/**
 * Draws the photo, width x height of the context's canvas.
 *
 * masks: [{shape, colour, label}]; zoom: pixels of the canvas for one of the photo; unit: for one of the screen.
 */
export function drawMasks(context, bitmap, masks, zoom, unit) {
  const { width, height } = context.canvas;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.drawImage(bitmap, 0, 0, width, height);
  if (!masks.length) return;
  // All but the masks is darkened.
  const around = new Path2D();
  around.rect(0, 0, width / zoom, height / zoom);
  const dark = new OffscreenCanvas(width, height).getContext("2d");
  dark.setTransform(zoom, 0, 0, zoom, 0, 0);
  dark.fillStyle = DARKENED;
  dark.fill(around);
  dark.globalCompositeOperation = "destination-out";
  dark.fillStyle = "#000";
  for (const { shape } of masks) dark.fill(shape.path);
  context.drawImage(dark.canvas, 0, 0);

  context.setTransform(zoom, 0, 0, zoom, 0, 0);
  context.lineJoin = "round";
  for (const { shape, colour } of masks) {
    context.globalAlpha = 0.3;
    context.fillStyle = colour;
    context.fill(shape.path);
    context.globalAlpha = 1;
    outline(context, shape.path, colour, unit / zoom);
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
  drawLabels(context, masks, zoom, unit);
}

/** Draws a map, such as how probable each pixel is, and the outline of what is above the threshold. */
export function drawHeat(context, bitmap, map, shape, zoom, unit) {
  const { width, height } = context.canvas;
  const { width: columns, height: rows, values } = map;
  const heat = new OffscreenCanvas(columns, rows).getContext("2d");
  const image = heat.createImageData(columns, rows);
  const table = Uint8ClampedArray.from({ length: 4 * 256 }, (_, index) => heatColour(index >> 2)[index & 3]);
  values.forEach((value, index) => image.data.set(table.subarray(4 * value, 4 * value + 4), 4 * index));
  heat.putImageData(image, 0, 0);
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.filter = "grayscale(1)";
  context.drawImage(bitmap, 0, 0, width, height);
  context.filter = "none";
  context.imageSmoothingQuality = "high";
  context.drawImage(heat.canvas, 0, 0, width, height);
  if (shape) {
    context.setTransform(zoom, 0, 0, zoom, 0, 0);
    outline(context, shape.path, "#ffffff", unit / zoom);
  }
}

function heatColour(value) {
  const place = (value / 255) * (HEAT.length - 1);
  const first = Math.min(Math.floor(place), HEAT.length - 2);
  const mixed = HEAT[first].map((low, channel) => low + (place - first) * (HEAT[first + 1][channel] - low));
  return [...mixed, 165 + (value / 255) * 45];
}

function outline(context, path, colour, unit) {
  for (const [style, width] of [["rgb(0 0 0 / 0.55)", 4.5], [colour, 2.5]]) {
    context.strokeStyle = style;
    context.lineWidth = width * unit;
    context.stroke(path);
  }
}

/** Draws each label at the highest point of its mask, below another label if it would cover that. */
function drawLabels(context, masks, zoom, unit) {
  context.font = `600 ${13 * unit}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.textAlign = "center";
  const height = 24 * unit;
  const placed = [];
  for (const { shape, colour, label } of masks) {
    const [middle, top] = shape.highest.map((value) => value * zoom);
    const width = context.measureText(label).width + 18 * unit;
    const limit = (value, length, most) => Math.max(4 * unit, Math.min(value, most - length - 4 * unit));
    const x = limit(middle - width / 2, width, context.canvas.width);
    let y = limit(top - height / 2, height, context.canvas.height);
    while (placed.some((other) => x < other.x + other.width && other.x < x + width && Math.abs(other.y - y) < height)) {
      y += height + 2 * unit;
    }
    placed.push({ x, y, width });
    context.fillStyle = colour;
    context.beginPath();
    context.roundRect(x, y, width, height, height / 2);
    context.fill();
    context.fillStyle = INK;
    context.fillText(label, x + width / 2, y + height / 2);
  }
}
