// What can be saved: the image with its masks, the masks as COCO's annotations, one mask, and a cut-out.
import { areaAndBox, decodeRle, encodeRle } from "./rle.js";
import { drawMasks } from "./draw.js";

/** Hands a file to the person at the browser. */
export function download(blob, name) {
  const address = URL.createObjectURL(blob);
  const anchor = Object.assign(document.createElement("a"), { href: address, download: name });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** Returns a name of a file from a text: letters and digits of all languages, joined by "-". */
export function fileName(text) {
  return (text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ["mask"]).join("-").slice(0, 60);
}

/** Returns the photo with its masks as a PNG, at the photo's size. */
export function overlayPng(photo, masks) {
  const canvas = new OffscreenCanvas(photo.width, photo.height);
  drawMasks(canvas.getContext("2d"), photo.bitmap, masks, 1, Math.max(photo.width, photo.height) / 800);
  return canvas.convertToBlob({ type: "image/png" });
}

/**
 * Returns a mask row by row, 0 or 1, at the photo's size: the engine's own, or what lies inside a shape that another
 * threshold made.
 */
export function maskPixels(photo, prediction, shape) {
  const { width, height } = photo;
  if (!shape) return prediction.empty ? new Uint8Array(width * height) : decodeRle(prediction.rle);
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.fill(shape.path);
  const { data } = context.getImageData(0, 0, width, height);
  return Uint8Array.from({ length: width * height }, (_, index) => Number(data[4 * index + 3] >= 128));
}

/** Returns a mask as a PNG of black and white, at the photo's size. */
export function maskPng(photo, mask) {
  const context = new OffscreenCanvas(photo.width, photo.height).getContext("2d");
  const image = context.createImageData(photo.width, photo.height);
  mask.forEach((value, index) => image.data.set([255 * value, 255 * value, 255 * value, 255], 4 * index));
  context.putImageData(image, 0, 0);
  return context.canvas.convertToBlob({ type: "image/png" });
}

/** Returns COCO's annotations of a photo as JSON; an expression is the name of a category. */
export function cocoJson(photo, answers) {
  const { width, height, name } = photo;
  const annotations = answers.map(({ text, score, mask }, index) => {
    const { area, box } = areaAndBox(mask, width, height);
    const segmentation = encodeRle(mask, width, height);
    return { id: index + 1, image_id: 1, category_id: index + 1, caption: text, score, area, bbox: box, iscrowd: 0, segmentation };
  });
  const content = {
    images: [{ id: 1, file_name: name, width, height }],
    categories: answers.map(({ text }, index) => ({ id: index + 1, name: text })),
    annotations,
  };
  return new Blob([JSON.stringify(content, null, 1)], { type: "application/json" });
}

/** Returns what lies inside a shape as an SVG: the photo, clipped by the shape's outline. */
export async function cutOutSvg(photo, shape, text) {
  const [left, top] = shape.box.slice(0, 2).map(Math.floor);
  const [width, height] = [Math.ceil(shape.box[2]) - left, Math.ceil(shape.box[3]) - top];
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").drawImage(photo.bitmap, -left, -top, photo.width, photo.height);
  const image = await dataAddress(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 }));
  const namespace = "http://www.w3.org/2000/svg";
  const made = document.implementation.createDocument(namespace, "svg");
  const add = (parent, name, attributes, content = "") => {
    const element = made.createElementNS(namespace, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = content;
    return parent.appendChild(element);
  };
  const svg = made.documentElement;
  svg.setAttribute("viewBox", `${left} ${top} ${width} ${height}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  add(svg, "title", {}, text);
  add(add(svg, "clipPath", { id: "outline" }), "path", { d: shape.data });
  add(svg, "image", { x: left, y: top, width, height, href: image, "clip-path": "url(#outline)" });
  return new Blob([new XMLSerializer().serializeToString(made)], { type: "image/svg+xml" });
}

function dataAddress(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
