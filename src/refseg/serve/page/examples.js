// The photos of the package, with expressions to start from.
export const EXAMPLES = [
  { name: "cats.jpg", title: "two cats", expressions: ["the cat on the left", "the cat on the right"] },
  { name: "horse.jpg", title: "a woman and a horse", expressions: ["the person on the left", "the horse"] },
  { name: "room.jpg", title: "a dog in a room", expressions: ["the dog on the left", "the person on the right", "the violin"] },
];
