// How probabilities become a mask, a score and a verdict: `Decision` and `Prediction` of src/refseg/values.py.

/** Returns {score, confidence, empty, threshold, mask}; decision: {threshold, relative_threshold, calibration}. */
export function decide(probability, { threshold: fixed, relative_threshold: relative, calibration }) {
  const highest = probability.reduce((most, value) => Math.max(most, value), 0);
  const threshold = relative == null || highest <= fixed ? fixed : relative * highest;
  const mask = new Uint8Array(probability.length);
  let [area, inside, outside] = [0, 0, 0];
  probability.forEach((value, index) => {
    if (value > threshold) {
      mask[index] = 1;
      area += 1;
      inside += value;
    } else outside += value;
  });
  const confidence = area ? Math.min(1, inside / (area + outside)) : 0;
  const empty = !area || confidence < (calibration?.reject_below ?? 0);
  const score = empty ? 0 : calibration ? interpolated(calibration.knots, confidence) : confidence;
  return { score, confidence, empty, threshold, mask };
}

/** Returns the value of a line through points (x, y), x rising, at a place; constant beyond the ends. */
function interpolated(points, place) {
  const after = points.findIndex(([x]) => x >= place);
  if (after === 0) return points[0][1];
  if (after < 0) return points.at(-1)[1];
  const [[left, low], [right, high]] = points.slice(after - 1, after + 1);
  return low + ((place - left) / (right - left)) * (high - low);
}
