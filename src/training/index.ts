export * from "./chart.js";
export * from "./checkpoint.js";
export * from "./metrics.js";
export * from "./optimizers.js";
export * from "./schedules.js";
export * from "./step.js";
export * from "./trainer.js";
export * from "./tensorboard.js";
