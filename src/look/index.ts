export * from "./lens.js";
export * from "./looker.js";
export * from "./open.js";
export * from "./page.js";
