// The engine that the page asks. A site without a server has another one under this name.
export { HttpEngine as Engine } from "./http.js";
