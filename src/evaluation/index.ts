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
  majority,
  planTask,
  runPlan,
} from "./plan.js";
export { type Question, type QuestionOptions, questionsOf } from "./questions.js";
export { type Identity, ResultFile, type TaskResult, identityOf, modelHash, resultOf } from "./results.js";
export { type Prediction, type Score, scoresOf } from "./scores.js";
export * from "./ratings.js";
export * from "./refinement.js";
