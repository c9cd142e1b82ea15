export { Tensor } from "./tensor.js";
export {
  type Dim,
  type Shape,
  addDims,
  divideDims,
  equalShapes,
  evaluateDim,
  formatShape,
  isStatic,
  multiplyDims,
  subtractDims,
} from "./dims.js";
export { type DerivativeContext, type Node, type OpDefinition, type TensorSpec, defineOp } from "./op.js";
export { type Scope, currentScope, withScope } from "./scope.js";
export { type Observation, type ObservationKind, observe, observing } from "./observe.js";
export { type GradientOptions, checkpoint, gradients } from "./autodiff.js";
export { type LowerOptions, Lowering, decompositionOf, lower, toOnnx } from "./lower.js";
export { compile } from "./compile.js";
export { allOrNone, compileInParts } from "./parts.js";
export * from "./packed.js";
export * from "./ops/activation.js";
export * from "./ops/attention.js";
export { causalMask, prefixMask } from "./ops/masks.js";
export * from "./ops/elementwise.js";
export * from "./ops/indexing.js";
export { type InputSource, constant, full, input, ones, range, scalar, zeros } from "./ops/leaf.js";
export * from "./ops/loss.js";
export * from "./ops/matmul.js";
export * from "./ops/norm.js";
export { RandomStream, dropout } from "./ops/random.js";
export {
  type ReduceOptions,
  argMax,
  argMin,
  cumulativeSum,
  logSumExp,
  max,
  mean,
  min,
  prod,
  sum,
  topK,
} from "./ops/reduce.js";
export {
  concat,
  expand,
  flip,
  limit,
  pad,
  repeat,
  reshape,
  slice,
  split,
  squeeze,
  stack,
  tile,
  transpose,
  unsqueeze,
} from "./ops/shape.js";
