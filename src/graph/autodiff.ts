import { isFloating } from "../base/dtype.js";
import { LineageError, ShapeError } from "../base/errors.js";
import { equalShapes } from "./dims.js";
import { decompositionOf } from "./lower.js";
import type { Node } from "./op.js";
import { add, cast, mul } from "./ops/elementwise.js";
import { addRows } from "./ops/indexing.js";
import { type InputSource, full, inputSource, uniformValue, zeros } from "./ops/leaf.js";
import type { RandomStream } from "./ops/random.js";
import { reshape, slice } from "./ops/shape.js";
import { withScope } from "./scope.js";
import { Tensor } from "./tensor.js";

export interface GradientOptions {
  /** Gradient of the loss itself. Default 1. */
  readonly seed?: Tensor | undefined;
  /** Gives a tensor on which the loss does not depend a gradient of zeros. Default: it is refused, as PyTorch does. */
  readonly allowUnused?: boolean | undefined;
}

/**
 * Reverse-mode differentiation: the gradient of the scalar `loss` with respect to each tensor of `wrt`, as new tensors of
 * the same graph, which can be differentiated again. Throws ShapeError unless `loss` is a floating-point scalar,
 * LineageError `argument` for a tensor on which it does not depend, `unsupported` for an operation without a derivative.
 */
export function gradients(
  loss: Tensor,
  wrt: readonly Tensor[],
  { seed, allowUnused = false }: GradientOptions = {},
): Tensor[] {
  if (!isFloating(loss.dtype) || (loss.rank !== 0 && !seed)) {
    throw new ShapeError(
      `gradients: the loss must be a floating-point scalar, not ${loss.describe()}; sum or average it`,
    );
  }
  if (seed && !(seed.dtype === loss.dtype && equalShapes(seed.shape, loss.shape))) {
    throw new ShapeError(`gradients: the seed ${seed.describe()} must be like the loss ${loss.describe()}`);
  }
  const accumulated = backward(new Map([[loss, seed ?? full([], 1, loss.dtype)]]), wrt);
  return wrt.map((tensor, index) => {
    const gradient = accumulated.get(tensor);
    if (gradient) return gradient;
    if (!allowUnused && !dependsOn(loss, tensor)) {
      const name = inputSource(tensor.node);
      throw new LineageError(
        "argument",
        `gradients: the loss does not depend on ${name ? `the input ${nameOf(name)}` : `tensor ${index} of those given`} (${tensor.describe()}); leave it out, or ask with allowUnused for zeros`,
      );
    }
    return zeros(tensor.shape, tensor.dtype);
  });
}

/** Whether any value, differentiable or not, leads from `source` to `loss`. */
const dependsOn = (loss: Tensor, source: Tensor): boolean =>
  loss === source || nodesBetween([loss], new Set([source])).length > 0;

/** An input's name; a parameter may not have got one yet. */
function nameOf(source: InputSource): string {
  try {
    return source.name;
  } catch {
    return "without a name";
  }
}

/** Carries gradients from the tensors of `seeds` back to those of `wrt`. */
function backward(seeds: ReadonlyMap<Tensor, Tensor>, wrt: readonly Tensor[]): Map<Tensor, Tensor> {
  const accumulated = new Map(seeds);
  const accumulate = (tensor: Tensor, gradient: Tensor): void => {
    const known = accumulated.get(tensor);
    accumulated.set(tensor, known ? addGradients(known, gradient) : gradient);
  };
  const wanted = new Set(wrt);
  const rematerialize = new Rematerializer();
  for (const node of nodesBetween([...seeds.keys()], wanted).reverse()) {
    const outputGradients = node.outputs.map((output) => accumulated.get(output));
    if (outputGradients.every((gradient) => gradient === undefined)) continue;
    const inputGradients = inScopeOf(node, () => {
      const again = rematerialize.apply(
        node,
        outputGradients.find((gradient) => gradient !== undefined)!,
      );
      // A composite's rule is that of its value; what flows into the by-products that it kept takes the long way.
      const byProducts = outputGradients.slice(1).some((gradient) => gradient !== undefined);
      if (again.op.derivative && !(again.op.decompose && byProducts))
        return again.op.derivative(again, outputGradients);
      if (again.op.decompose) return throughDecomposition(again, outputGradients);
      throw new LineageError(
        "unsupported",
        `${node.op.name} has no derivative${node.scope?.path ? ` (in ${node.scope.path})` : ""}; put stopGradient around it ` +
          `if none should flow through it`,
      );
    });
    node.inputs.forEach((input, index) => {
      const gradient = inputGradients[index];
      if (gradient && isFloating(input.dtype)) accumulate(input, gradient);
    });
  }
  return accumulated;
}

function throughDecomposition(
  node: Node,
  outputGradients: readonly (Tensor | undefined)[],
): (Tensor | undefined)[] {
  const seeds = new Map<Tensor, Tensor>();
  decompositionOf(node).forEach((part, index) => {
    const gradient = outputGradients[index];
    if (gradient) seeds.set(part, gradient);
  });
  const inner = backward(seeds, node.inputs);
  return node.inputs.map((input) => inner.get(input));
}

const inScopeOf = <T>(node: Node, build: () => T): T => (node.scope ? withScope(node.scope, build) : build());

/** A sum of two gradients; rows scattered into zeros are scattered into the other term instead, which saves a pass over it. */
function addGradients(a: Tensor, b: Tensor): Tensor {
  const rows = [a, b].find(
    (term) => term.node.op.name === "addRows" && uniformValue(term.node.inputs[0]!) === 0,
  );
  if (!rows) return add(a, b);
  const [, indices, values] = rows.node.inputs;
  return addRows(rows === a ? b : a, indices!, values!);
}

/**
 * The nodes on a path from a tensor of `wanted` to a root, each after what it needs.
 * @param beyond whether also those that a tensor of `wanted` is made of, where they are on a path from another one
 */
function nodesBetween(roots: readonly Tensor[], wanted: ReadonlySet<Tensor>, beyond = true): Node[] {
  const leadsToWanted = new Map<Node, boolean>();
  const order: Node[] = [];
  const stack = roots.map((root) => root.node);
  const open = new Set<Node>();
  while (stack.length > 0) {
    const node = stack.at(-1)!;
    if (leadsToWanted.has(node)) {
      stack.pop();
    } else if (open.has(node)) {
      stack.pop();
      const leads = node.inputs.some((input) => wanted.has(input) || leadsToWanted.get(input.node) === true);
      leadsToWanted.set(node, leads);
      if (leads) order.push(node);
    } else {
      open.add(node);
      for (const input of node.inputs)
        if (!open.has(input.node) && (beyond || !wanted.has(input))) stack.push(input.node);
    }
  }
  return order;
}

/** Nodes of a checkpointed block, by what block they belong to. */
const blocks = new WeakMap<Node, Block>();

interface Block {
  readonly inputs: readonly Tensor[];
  readonly nodes: ReadonlySet<Node>;
}

/**
 * Gradient checkpointing, Chen et al. 2016: computes `block(inputs)`, keeps nothing of what lies inside for the backward
 * pass, and computes it again there. Saves the memory of a block's activations for the time of its forward pass. What the
 * block uses besides `inputs` (parameters) is used as it is.
 * @param random what the block draws from: its numbers are drawn again, the same ones
 */
export function checkpoint<T extends Tensor | readonly Tensor[]>(
  block: (...inputs: Tensor[]) => T,
  inputs: readonly Tensor[],
  random?: RandomStream,
): T {
  const result = block(...inputs);
  const outputs: readonly Tensor[] = result instanceof Tensor ? [result] : result;
  const given = random ? [...inputs, random.seed] : inputs;
  const nodes = new Set(nodesBetween(outputs, new Set(given), false));
  const description: Block = { inputs: given, nodes };
  for (const node of nodes) if (!blocks.has(node)) blocks.set(node, description);
  return result;
}

/** Builds the insides of checkpointed blocks a second time, for the backward pass alone. */
class Rematerializer {
  private readonly copies = new Map<Block, Map<Tensor, Tensor>>();

  /** The node with inputs and outputs that are computed again, if it belongs to a block; else the node itself. */
  apply(node: Node, gradient: Tensor): Node {
    const block = blocks.get(node);
    if (!block) return node;
    let copies = this.copies.get(block);
    if (!copies) {
      copies = new Map(block.inputs.map((input) => [input, after(input, gradient)]));
      this.copies.set(block, copies);
    }
    return this.copyNode(node, block, copies);
  }

  private copyNode(node: Node, block: Block, copies: Map<Tensor, Tensor>): Node {
    const known = copies.get(node.outputs[0]!);
    if (known) return known.node;
    const inputs = node.inputs.map((input) => {
      const copy = copies.get(input);
      if (copy) return copy;
      return block.nodes.has(input.node)
        ? this.copyNode(input.node, block, copies).outputs[input.index]!
        : input;
    });
    const outputs: Tensor[] = [];
    const copy: Node = { op: node.op, inputs, attributes: node.attributes, outputs, scope: node.scope };
    for (const output of node.outputs) {
      const again = new Tensor(copy, output.index, output.dtype, output.shape);
      outputs.push(again);
      copies.set(output, again);
    }
    return copy;
  }
}

/**
 * `x`, but computed only once `gradient` is there. Without this the engine would recognise the second computation as the
 * first one's twin and keep the first one's result.
 */
function after(x: Tensor, gradient: Tensor): Tensor {
  const flat = gradient.rank === 0 ? reshape(gradient, [1]) : reshape(gradient, [-1]);
  const nothing = reshape(mul(slice(flat, 0, 0, 1), 0), []);
  return add(x, cast(nothing, x.dtype));
}
