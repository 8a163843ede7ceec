// The settings in the part of the address after "#", which no server receives: expressions, threshold, model, example.

/** Returns {expressions, threshold, model, example}; what is absent or wrong is null. */
export function readLink(hash) {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  const threshold = Number(values.get("threshold"));
  return {
    expressions: values.getAll("find").map((text) => text.trim()).filter(Boolean),
    threshold: threshold > 0 && threshold < 1 ? threshold : null,
    model: values.get("model"),
    example: values.get("example"),
  };
}

/** Returns the same as the end of an address, from "#" on. */
export function writeLink({ expressions, threshold, model, example }) {
  const values = new URLSearchParams(expressions.map((text) => ["find", text]));
  for (const [name, value] of Object.entries({ threshold, model, example })) if (value) values.set(name, value);
  return values.size ? `#${values}` : "";
}
