// COCO's compressed run lengths: columns from left to right, background first. Lengths are written in digits of five
// bits, the lowest first, as characters from "0" on; a sixth bit says that another digit follows. From the fourth
// length on, the difference to the one before the last is written.

/** Returns the mask, row by row, 0 or 1, of {size: [height, width], counts}. */
export function decodeRle({ size: [height, width], counts }) {
  const runs = [];
  for (let at = 0; at < counts.length; ) {
    let value = 0, shift = 0, digit;
    do {
      digit = counts.charCodeAt(at++) - 48;
      value |= (digit & 31) << shift;
      shift += 5;
    } while (digit & 32);
    if (digit & 16) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  const mask = new Uint8Array(width * height);
  let place = 0;
  runs.forEach((run, number) => {
    if (number % 2) for (let at = place; at < place + run; at++) mask[(at % height) * width + Math.floor(at / height)] = 1;
    place += run;
  });
  return mask;
}

/** Returns {size, counts} of a mask, row by row, where not 0. */
export function encodeRle(mask, width, height) {
  const runs = [];
  let length = 0, current = false;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      if (Boolean(mask[y * width + x]) !== current) {
        runs.push(length);
        length = 0;
        current = !current;
      }
      length++;
    }
  }
  runs.push(length);
  let counts = "";
  runs.forEach((run, number) => {
    let value = number > 2 ? run - runs[number - 2] : run;
    let more;
    do {
      const digit = value & 31;
      value >>= 5;
      more = digit & 16 ? value !== -1 : value !== 0;
      counts += String.fromCharCode(48 + digit + (more ? 32 : 0));
    } while (more);
  });
  return { size: [height, width], counts };
}

/** Returns area and box [x, y, width, height] of a mask, row by row. */
export function areaAndBox(mask, width, height) {
  let area = 0, left = width, top = height, right = 0, bottom = 0;
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!mask[at]) continue;
      area++;
      left = Math.min(left, x);
      right = Math.max(right, x + 1);
      top = Math.min(top, y);
      bottom = y + 1;
    }
  }
  return { area, box: area ? [left, top, right - left, bottom - top] : [0, 0, 0, 0] };
}
