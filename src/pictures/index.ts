export * from "./attention.js";
export * from "./chart.js";
export * from "./confusion.js";
export * from "./png.js";
export { escapeMarkup, fitText, textWidth, visible } from "./svg.js";
