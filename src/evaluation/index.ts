export * from "./arena.js";
export { builtInTasks } from "./built-in.js";
export {
  type Task,
  type TaskDeclaration,
  type TaskInput,
  type TaskPlaces,
  findTask,
  taskOf,
  textTask,
} from "./declaration.js";
export {
  type Continuation,
  type Likelihood,
  encodePair,
  logLikelihoods,
  rollingWindows,
} from "./likelihood.js";
export {
  type Plan,
  type PlanOptions,
  type RunOptions,
  extracted,
  judged,
  planTask,
  runPlan,
} from "./plan.js";
export { overlapLength, overlapping } from "./overlap.js";
export { type Question, type QuestionOptions, questionsOf } from "./questions.js";
export {
  type Identity,
  type OverlapResult,
  ResultFile,
  type TaskResult,
  identityOf,
  modelHash,
  resultOf,
} from "./results.js";
export { type Summary, type TaskSummary, readSummaries, scoreCurves, shortNames } from "./summary.js";
export { type Prediction, type Score, scoresOf } from "./scores.js";
export * from "./ratings.js";
export * from "./refinement.js";
export { isoFlopChart } from "./scaling-chart.js";
export { readScalingRuns } from "./scaling-runs.js";
export {
  type ComputeOptimal,
  type Estimate,
  type Fitted,
  type ParametricLaw,
  type PowerLaw,
  type ScalingFit,
  type ScalingOptions,
  type ScalingRun,
  computeOptimal,
  fitScaling,
  powerLawOptimal,
  predictedLoss,
} from "./scaling.js";
