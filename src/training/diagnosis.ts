import { isFloating } from "../base/dtype.js";
import type { Batch } from "../data/index.js";
import { type Node, RandomStream, type Tensor, compile, input, sub, sum } from "../graph/index.js";
import { type WeightSet, namedParameters } from "../nn/index.js";
import type { DeviceTensor } from "../runtime/types.js";
import { lossGraph, withConstants } from "./step.js";
import type { Objective } from "./objective.js";

/** The nodes that `roots` need, each after what it needs itself. */
export function nodesOf(
  roots: readonly Tensor[],
  inputsOf: (node: Node) => readonly Tensor[] = (node) => node.inputs,
): Node[] {
  const order = new Set<Node>();
  const stack: { node: Node; ready: boolean }[] = roots.map(({ node }) => ({ node, ready: false })).reverse();
  for (let top = stack.pop(); top; top = stack.pop()) {
    if (top.ready) order.add(top.node);
    else if (!order.has(top.node)) {
      stack.push({ node: top.node, ready: true });
      for (const { node } of [...inputsOf(top.node)].reverse()) stack.push({ node, ready: false });
    }
  }
  return [...order];
}

/**
 * Where a forward pass first makes a value that is not finite: a sentence's end, `in transformer.h.1.mlp (gelu)`;
 * undefined where it makes none. It compiles and runs a program of its own, which is worth it once, when training fails.
 */
export async function firstNonFinite(
  objective: Objective,
  weights: WeightSet,
  batch: Batch,
  seed: number,
): Promise<string | undefined> {
  const { runtime } = weights;
  const { sums } = lossGraph(objective, { random: new RandomStream(input("seed", "uint32", [])) });
  const parameters = namedParameters(objective.model);
  const places: string[] = [];
  const flags: Record<string, Tensor> = {};
  for (const node of nodesOf(Object.values(sums))) {
    const [tensor] = node.outputs;
    if (!tensor || !isFloating(tensor.dtype)) continue;
    const parameter = [...parameters].find(([, { tensor: own }]) => own === tensor);
    // Numbers in few bits are finite, and nothing but a product can read them.
    if (parameter && weights.constants?.packed[parameter[0]]) continue;
    // Zero, or NaN where an element is infinite or none.
    flags[`flag${places.length}`] = sum(sub(tensor, tensor));
    const scope = node.scope?.path;
    places.push(
      parameter
        ? `in the parameter ${parameter[0]}`
        : `${scope ? `in ${scope}` : "outside the model's layers"} (${node.op.name})`,
    );
  }
  using program = await compile(runtime, flags, { ...withConstants(weights), name: "diagnosis" });
  const owned: DeviceTensor[] = [runtime.createTensor("uint32", [], Uint32Array.of(seed))];
  const inputs: Record<string, DeviceTensor> = { ...weights.tensors, seed: owned[0]! };
  for (const [name, { data, shape }] of Object.entries(batch.tensors)) {
    const spec = objective.inputs[name];
    if (!spec) continue;
    owned.push((inputs[name] = runtime.createTensor(spec.dtype, shape, data)));
  }
  try {
    const results = await program.run(
      Object.fromEntries(program.inputs.map(({ name }) => [name, inputs[name]!])),
    );
    owned.push(...Object.values(results));
    const read = await Promise.all(
      places.map((_, index) => (results[`flag${index}`] as DeviceTensor<"float32">).read()),
    );
    return places[read.findIndex((value) => !Number.isFinite(value[0]))];
  } finally {
    for (const tensor of owned) tensor.dispose();
  }
}
