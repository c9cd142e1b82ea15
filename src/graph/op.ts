import type { DType } from "../base/dtype.js";
import { LineageError, ShapeError } from "../base/errors.js";
import type { Shape } from "./dims.js";
import type { Lowering } from "./lower.js";
import { type Scope, currentScope } from "./scope.js";
import { Tensor } from "./tensor.js";

/** The dtype and shape of a tensor. */
export interface TensorSpec {
  readonly dtype: DType;
  readonly shape: Shape;
}

/** One application of an operation. */
export interface Node {
  readonly op: Op;
  readonly inputs: readonly Tensor[];
  readonly attributes: unknown;
  readonly outputs: readonly Tensor[];
  readonly scope: Scope | undefined;
  /** What a composite stands for, once differentiation or lowering has asked. */
  decomposition?: readonly Tensor[];
}

type Gradient = Tensor | undefined;

/** An operation as the rest of the graph floor sees it: attributes are its own business. */
export interface Op {
  readonly name: string;
  readonly derivative?: (node: Node, gradients: readonly Gradient[]) => readonly Gradient[];
  readonly lower?: (node: Node, onnx: Lowering) => string | readonly string[] | undefined;
  readonly decompose?: (node: Node) => readonly Tensor[];
}

export interface DerivativeContext<A> {
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  /** Gradient of the differentiated scalar by each output; undefined where it does not depend on that output. */
  readonly gradients: readonly Gradient[];
  /** The first output's gradient, which every derivative rule of a single-output operation uses. */
  readonly gradient: Tensor;
  readonly attributes: A;
}

export interface OpDefinition<A> {
  /** The specification of every output. Throws ShapeError where the inputs do not fit. */
  readonly shape: (inputs: readonly Tensor[], attributes: A) => TensorSpec | readonly TensorSpec[];
  /**
   * The gradient of each input, made of graph operations; undefined for one that has none. An operation without a rule
   * is differentiated through `decompose`, and refused where it has neither.
   */
  readonly derivative?: (context: DerivativeContext<A>) => readonly Gradient[];
  /**
   * Writes the operation as ONNX and returns the names of its outputs; undefined when this case (a dtype that the engine's
   * fused kernel lacks) has to go through `decompose`.
   */
  readonly lower?: (
    context: {
      readonly names: readonly string[];
      readonly inputs: readonly Tensor[];
      readonly outputs: readonly Tensor[];
      readonly attributes: A;
    },
    onnx: Lowering,
  ) => string | readonly string[] | undefined;
  /** The same values from more primitive operations. */
  readonly decompose?: (inputs: readonly Tensor[], attributes: A) => Tensor | readonly Tensor[];
}

/**
 * Defines an operation: its shape rule, its derivative and its lowering, in one place. The function returned applies it
 * and gives its first output; the others are `result.node.outputs`.
 */
export function defineOp<A = undefined>(
  name: string,
  definition: OpDefinition<A>,
): undefined extends A
  ? (inputs: readonly Tensor[]) => Tensor
  : (inputs: readonly Tensor[], attributes: A) => Tensor;
export function defineOp<A>(
  name: string,
  definition: OpDefinition<A>,
): (inputs: readonly Tensor[], attributes: A) => Tensor {
  const { derivative, lower, decompose } = definition;
  const op: Op = {
    name,
    ...(derivative && {
      derivative: (node, gradients) =>
        derivative({
          inputs: node.inputs,
          outputs: node.outputs,
          gradients,
          get gradient() {
            const first = gradients[0];
            if (!first) throw new LineageError("internal", `${name}: its first output has no gradient`);
            return first;
          },
          attributes: node.attributes as A,
        }),
    }),
    ...(lower && {
      lower: (node, onnx) =>
        lower(
          {
            get names() {
              return node.inputs.map((input) => onnx.nameOf(input));
            },
            inputs: node.inputs,
            outputs: node.outputs,
            attributes: node.attributes as A,
          },
          onnx,
        ),
    }),
    ...(decompose && {
      decompose: (node) => {
        const result = decompose(node.inputs, node.attributes as A);
        return result instanceof Tensor ? [result] : result;
      },
    }),
  };
  return (inputs, attributes) => {
    const shaped = shapeChecked(name, () => definition.shape(inputs, attributes));
    const specs: readonly TensorSpec[] = "dtype" in shaped ? [shaped] : shaped;
    const outputs: Tensor[] = [];
    const node: Node = { op, inputs: [...inputs], attributes, outputs, scope: currentScope() };
    for (const [index, spec] of specs.entries())
      outputs.push(new Tensor(node, index, spec.dtype, spec.shape));
    return outputs[0]!;
  };
}

/** Adds to a shape error the operation that was written, and the module in which it was. */
function shapeChecked<T>(name: string, check: () => T): T {
  try {
    return check();
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    const path = currentScope()?.path;
    throw new ShapeError(`${name}: ${error.message}${path ? ` (in ${path})` : ""}`);
  }
}
