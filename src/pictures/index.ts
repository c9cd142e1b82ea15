export * from "./chart.js";
export * from "./confusion.js";
export * from "./png.js";
