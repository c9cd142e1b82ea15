import {
  type KeyValueCache,
  type Node,
  type Tensor,
  allOrNone,
  compileInParts,
  constant,
  constantBytes,
  gather,
  input,
  observing,
} from "../graph/index.js";
import { type WeightSet, namedParameters } from "../nn/index.js";
import type { Program } from "../runtime/types.js";
import type { CacheType } from "./cache.js";
import type { CausalModel } from "./model.js";

/** Scales of an int8 cache, by layer and part (`3.key`): `[numKeyValueHeads * headSize]`. */
export type CacheScales = Readonly<Record<string, Float32Array>>;

/** What runs over the caches: rows of any number with one token each, or one row with any number of tokens. */
export interface DecoderPrograms {
  readonly step: Program;
  /** Reads prompts without giving logits, where the weights have a form of their own for that. */
  readonly reader: Program | undefined;
}

/** Compiles what a decoder runs. `cells` are the tokens that one row of the cache holds. */
export async function compileDecoder(
  model: CausalModel,
  weights: WeightSet,
  cache: {
    readonly type: CacheType;
    readonly cells: number;
    /** Whether every token's cell is its position. */
    readonly inPlace: boolean;
    readonly scales: CacheScales | undefined;
  },
  parts: number = defaultParts(weights),
): Promise<DecoderPrograms> {
  namedParameters(model);
  const { numLayers } = model.config;
  const [, heads, , headSize] = model.cacheShape(1, cache.cells) as number[];
  const { scales } = cache;
  const scale = (name: string): Tensor => constant("float32", [1, heads!, 1, headSize!], scales![name]!);
  const inputIds = input("inputIds", "int32", ["batch", "sequence"]);
  const positionIds = input("positionIds", "int64", ["batch", "sequence"]);
  const lastRows = input("lastRows", "int64", ["rows"]);
  const shared = {
    lastPosition: input("lastPosition", "int32", ["batch"]),
    totalLength: input("totalLength", "int32", []),
  };
  const shape = model.cacheShape("batch", "capacity");
  const layers: KeyValueCache[] = Array.from({ length: numLayers }, (_, layer) => ({
    key: input(`past.${layer}.key`, cache.type, shape),
    value: input(`past.${layer}.value`, cache.type, shape),
    ...(scales && { scales: { key: scale(`${layer}.key`), value: scale(`${layer}.value`) } }),
    ...shared,
  }));
  const present: { key: Tensor; value: Tensor }[] = [];
  const { result: hidden, observations } = observing(() =>
    model.hiddenStates(inputIds, positionIds, {
      cache: {
        layers,
        present,
        length: input("length", "int64", ["batch"]),
        slots: cache.inPlace ? cache.cells : undefined,
      },
    }),
  );
  // The first is what the first layer reads.
  const [, ...states] = observations.filter(({ kind }) => kind === "hidden").map(({ tensor }) => tensor);
  const logits = model.logits(gather(hidden.reshape([-1, hidden.shape[2]!]), lastRows));
  const outputs: Record<string, Tensor> = {};
  present.forEach(({ key, value }, layer) => {
    outputs[`present.${layer}.key`] = key;
    outputs[`present.${layer}.value`] = value;
  });
  const { runtime, constants, promptConstants } = weights;
  const cuts = chooseCuts(model, states, logits, parts);
  const making = [compileInParts(runtime, { logits, ...outputs }, cuts, { name: "decoder", constants })];
  if (promptConstants)
    making.push(compileInParts(runtime, outputs, cuts, { name: "reader", constants: promptConstants }));
  const [step, reader] = (await allOrNone(making)) as [Program, Program | undefined];
  return { step, reader };
}

/** Bytes of weights from which on the parts of a model are made faster side by side than the whole. */
const worthParts = 64e6;

/** More parts gain little, and each costs some microseconds of a step. */
const mostParts = 4;

function defaultParts({ runtime, constants }: WeightSet): number {
  if (!constants || constantBytes(constants) < worthParts) return 1;
  return Math.min(runtime.threads, mostParts);
}

/**
 * The states at which a model is cut into parts with about as many weights each.
 * @param states after each layer
 */
function chooseCuts(model: CausalModel, states: readonly Tensor[], logits: Tensor, parts: number): Tensor[] {
  if (parts === 1) return [];
  const sizes = productSizes(model, [...states, logits]);
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const cuts: Tensor[] = [];
  let done = 0;
  // The last layer stays with the output layer: a program that reads prompts ends with it.
  for (const [index, state] of states.slice(0, -1).entries()) {
    done += sizes[index]!;
    // A cut belongs where the sum comes nearest to the next share.
    if (cuts.length < parts - 1 && done + sizes[index + 1]! / 2 >= ((cuts.length + 1) * total) / parts)
      cuts.push(state);
  }
  return cuts;
}

/** Elements of the matrices that the engine multiplies by on the way to each of some tensors from the ones before. */
function productSizes(model: CausalModel, ends: readonly Tensor[]): number[] {
  const sizes = new Map([...namedParameters(model).values()].map(({ tensor, size }) => [tensor, size]));
  const seen = new Set<Node>();
  const sizeOf = ({ node }: Tensor): number => {
    if (seen.has(node)) return 0;
    seen.add(node);
    let sum = 0;
    for (const from of node.inputs) {
      const size = sizes.get(from);
      if (size === undefined) sum += sizeOf(from);
      // Rows are looked up in a table as it lies; nothing is made of it.
      else if (node.op.name !== "gather") sum += size;
    }
    return sum;
  };
  return ends.map(sizeOf);
}
