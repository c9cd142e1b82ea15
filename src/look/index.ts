export * from "./lens.js";
