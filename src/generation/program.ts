import {
  type Dim,
  type KeyValueCache,
  type Node,
  type Tensor,
  allOrNone,
  compile,
  compileInParts,
  constant,
  constantBytes,
  gather,
  input,
  logSoftmax,
  multiplyDims,
  observing,
  topK,
} from "../graph/index.js";
import { EncoderDecoder, type KeysAndValues, type WeightSet, bankOf, namedParameters } from "../nn/index.js";
import type { Program } from "../runtime/types.js";
import type { CacheType } from "./cache.js";
import type { CausalModel, GenerativeModel } from "./model.js";

/** Scales of an int8 cache, by layer and part (`3.key`): `[numKeyValueHeads * headSize]`. */
export type CacheScales = Readonly<Record<string, Float32Array>>;

/** What runs over the caches: rows of any number with one token each, or one row with any number of tokens. */
export interface DecoderPrograms {
  readonly step: Program;
  /** Reads prompts without giving logits, where the weights have a form of their own for that. */
  readonly reader?: Program | undefined;
  /** Of a prefix language model: reads a whole prompt both ways. */
  readonly prefix?: Program | undefined;
  /** Of an encoder-decoder: reads sources, and gives what the layers of the decoder look at in them. */
  readonly encoder?: Program | undefined;
}

/** How many layers write keys and values. */
export const decoderLayers = (model: GenerativeModel): number =>
  model instanceof EncoderDecoder ? model.config.numDecoderLayers : model.config.numLayers;

export interface CacheLayout {
  readonly type: CacheType;
  /** Tokens that one row of the cache holds at most. */
  readonly cells: number;
  /** Whether every token's cell is its position. */
  readonly inPlace: boolean;
  /** Layers whose caches hold the window alone, where others hold the whole text. */
  readonly local: ReadonlySet<number>;
  readonly scales: CacheScales | undefined;
  /** Whether each run says by a bias who sees whom. */
  readonly biased: boolean;
}

/**
 * Compiles what a decoder runs.
 * @param ranked how many of the likeliest tokens a step tells; 0 for none
 */
export async function compileDecoder(
  model: GenerativeModel,
  weights: WeightSet,
  cache: CacheLayout,
  ranked: number,
  {
    parts = defaultParts(weights),
    exactProducts,
  }: { parts?: number | undefined; exactProducts?: boolean | undefined },
): Promise<DecoderPrograms> {
  namedParameters(model);
  const { runtime, constants, promptConstants } = weights;
  const named = (name: string) => ({ name, constants, exactProducts });
  const pass = model instanceof EncoderDecoder ? passOfSource(model, cache) : passOfText(model, cache);
  const { logits, outputs, cuts } = ends(model, pass, parts);
  const best = ranked > 0 ? topK(logSoftmax(logits), ranked) : undefined;
  const told = { logits, ...(best && { rankedIds: best.indices, rankedScores: best.values }) };
  const making = new Map([
    ["step", compileInParts(runtime, { ...told, ...outputs }, cuts, named("decoder"))],
  ]);
  if (model instanceof EncoderDecoder)
    making.set("encoder", compile(runtime, sourceMemory(model), named("encoder")));
  if (isPrefixLm(model)) {
    const both = ends(model, passOfText(model, cache, true), parts);
    const whole = { logits: both.logits, ...both.outputs };
    making.set("prefix", compileInParts(runtime, whole, both.cuts, named("prefix")));
  } else if (promptConstants)
    making.set(
      "reader",
      compileInParts(runtime, outputs, cuts, { ...named("reader"), constants: promptConstants }),
    );
  const made = await allOrNone([...making.values()]);
  const programs = new Map([...making.keys()].map((name, index) => [name, made[index]!]));
  return {
    step: programs.get("step")!,
    reader: programs.get("reader"),
    prefix: programs.get("prefix"),
    encoder: programs.get("encoder"),
  };
}

/** Whether a model reads its prompts both ways. */
export const isPrefixLm = (model: GenerativeModel): model is CausalModel =>
  !(model instanceof EncoderDecoder) && model.config.prefixLm === true;

/** What a pass gives, and where it is cut into parts. */
function ends(model: GenerativeModel, { hidden, present, states }: Pass, parts: number) {
  const logits = model.logits(
    gather(hidden.reshape([-1, hidden.shape[2]!]), input("lastRows", "int64", ["rows"])),
  );
  const outputs: Record<string, Tensor> = {};
  present.forEach(({ key, value }, layer) => {
    outputs[`present.${layer}.key`] = key;
    outputs[`present.${layer}.value`] = value;
  });
  return { logits, outputs, cuts: chooseCuts(model, states, logits, parts) };
}

/** A pass of a model over its caches. */
interface Pass {
  readonly hidden: Tensor;
  readonly present: readonly KeysAndValues[];
  /** After each layer. */
  readonly states: readonly Tensor[];
}

/** The caches of a pass, the rows being `batch`. */
function cachesOf(
  model: GenerativeModel,
  { type, scales, cells, local, biased }: CacheLayout,
  batch: Dim,
): KeyValueCache[] {
  const [, heads, , headSize] = model.cacheShape(1, cells) as number[];
  const scale = (name: string): Tensor => constant("float32", [1, heads!, 1, headSize!], scales![name]!);
  const [whole, windows] = cellsNames.map((names) => ({
    lastPosition: input(names.lastPosition, "int32", [batch]),
    totalLength: input(names.totalLength, "int32", []),
    ...(biased && { bias: input("bias", "float32", [1, 1, "sequence", "total"]) }),
    capacity: names.capacity,
  }));
  return Array.from({ length: decoderLayers(model) }, (_, layer) => {
    const { capacity, ...used } = (local.has(layer) ? windows : whole)!;
    const shape = model.cacheShape(batch, capacity);
    return {
      key: input(`past.${layer}.key`, type, shape),
      value: input(`past.${layer}.value`, type, shape),
      ...(scales && { scales: { key: scale(`${layer}.key`), value: scale(`${layer}.value`) } }),
      ...used,
    };
  });
}

/** Inputs that say how many cells are in use, and the dimension of all cells: of whole texts, and of windows beside them. */
export const cellsNames = [
  { lastPosition: "lastPosition", totalLength: "totalLength", capacity: "capacity" },
  { lastPosition: "lastPositionOfWindows", totalLength: "totalLengthOfWindows", capacity: "windowCapacity" },
] as const;

function passOfText(model: CausalModel, cache: CacheLayout, bothWays = false): Pass {
  const inputIds = input("inputIds", "int32", ["batch", "sequence"]);
  const positionIds = input("positionIds", "int64", ["batch", "sequence"]);
  const layers = cachesOf(model, cache, "batch");
  const length = input("length", "int64", ["batch"]);
  return observed((present) =>
    choosing(model, "batch", () =>
      model.hiddenStates(inputIds, positionIds, {
        cache: { layers, present, length, bothWays, slots: cache.inPlace ? cache.cells : undefined },
      }),
    ),
  );
}

/** Lets rows choose adapters in what `write` writes, where the model has several. */
const choosing = <T>(model: GenerativeModel, rows: Dim, write: () => T): T =>
  bankOf(model)?.choosing(rows, write) ?? write();

/** The rows of one source stand one after the other: `inputIds` is `[sources, beams, sequence]`. */
function passOfSource(model: EncoderDecoder, cache: CacheLayout): Pass {
  const inputIds = input("inputIds", "int32", ["sources", "beams", "sequence"]);
  const rows = multiplyDims("sources", "beams");
  const shape = model.memoryShape("sources", "sourceSequence");
  const memory = Array.from({ length: decoderLayers(model) }, (_, layer) => ({
    key: input(`memory.${layer}.key`, "float32", shape),
    value: input(`memory.${layer}.value`, "float32", shape),
  }));
  const layers = cachesOf(model, cache, rows);
  const positionIds = input("positionIds", "int64", [rows, "sequence"]);
  const keyPositions = input("keyPositions", "int64", ["total"]);
  const memoryMask = input("memoryMask", "bool", ["sources", "sourceSequence"]);
  return observed((present) =>
    choosing(model, rows, () =>
      model.hiddenStates(
        inputIds.reshape([rows, "sequence"]),
        { memory, memoryMask },
        { positionIds, cache: { layers, present, keyPositions } },
      ),
    ),
  );
}

/** A pass with the states that its layers let be seen. */
function observed(write: (present: KeysAndValues[]) => Tensor): Pass {
  const present: KeysAndValues[] = [];
  const { result: hidden, observations } = observing(() => write(present));
  // The first is what the first layer reads.
  const [, ...states] = observations.filter(({ kind }) => kind === "hidden").map(({ tensor }) => tensor);
  return { hidden, present, states };
}

/** What the layers of the decoder look at in sources. */
function sourceMemory(model: EncoderDecoder): Record<string, Tensor> {
  const shape = ["sources", "sourceSequence"];
  const inputIds = input("inputIds", "int32", shape);
  const attentionMask = input("attentionMask", "bool", shape);
  const memory = choosing(model, "sources", () => model.remember(model.encode({ inputIds, attentionMask })));
  return Object.fromEntries(
    memory.flatMap(({ key, value }, layer) => [
      [`${layer}.key`, key],
      [`${layer}.value`, value],
    ]),
  );
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
function chooseCuts(
  model: GenerativeModel,
  states: readonly Tensor[],
  logits: Tensor,
  parts: number,
): Tensor[] {
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
function productSizes(model: GenerativeModel, ends: readonly Tensor[]): number[] {
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
