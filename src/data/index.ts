export * from "./loader.js";
export { stories, story } from "./stories/index.js";
