import { LineageError } from "../base/errors.js";
import { float16Bits } from "../base/half.js";
import type { TypedArray } from "../base/dtype.js";
import { CausalLm, type Prefix, type WeightSet, namedParameters, virtualIds } from "../nn/index.js";
import type { CacheType } from "./cache.js";
import type { GenerativeModel } from "./model.js";

/** What a decoder holds before every text: virtual tokens, and where a prefix says them, their keys and values. */
export interface Lead {
  readonly ids: readonly number[];
  /** By layer and part (`3.key`), `[numKeyValueHeads, ids.length, headSize]` as the cache keeps them. */
  readonly cells?: ReadonlyMap<string, TypedArray> | undefined;
}

const nothing: Lead = { ids: [] };

/** What stands before the texts of a model. Throws `unsupported` for a prefix in an int8 cache. */
export function leadOf(
  model: GenerativeModel,
  weights: WeightSet,
  /** Channels of a head in the cache, where they are more than its own. */
  cachedHeadSize: number,
  type: CacheType,
): Lead {
  const prompt = model instanceof CausalLm ? model.softPrompt : undefined;
  if (!prompt) return nothing;
  const ids = virtualIds(prompt);
  if (prompt.kind === "prompt") return { ids };
  if (type === "int8")
    throw new LineageError("unsupported", "an int8 cache does not take a prefix; choose float32 or float16");
  namedParameters(model);
  const { name } = prompt.values;
  const tensor = weights.tensors[name] ?? weights.constants?.tensors[name];
  if (!tensor) throw new LineageError("argument", `the weights given have no values for the prefix, ${name}`);
  return { ids, cells: cellsOf(prompt, tensor.contents() as Float32Array, cachedHeadSize, type) };
}

function cellsOf(
  { tokens, shape }: Prefix,
  values: Float32Array,
  wide: number,
  type: "float32" | "float16",
): Map<string, TypedArray> {
  const { numLayers, numKeyValueHeads: heads, headSize } = shape;
  const cells = new Map<string, TypedArray>();
  for (let index = 0; index < 2 * numLayers; index++) {
    const part = new Float32Array(heads * tokens * wide);
    for (let token = 0; token < tokens; token++)
      for (let head = 0; head < heads; head++) {
        const from = ((token * 2 * numLayers + index) * heads + head) * headSize;
        part.set(values.subarray(from, from + headSize), (head * tokens + token) * wide);
      }
    cells.set(
      `${index >> 1}.${index % 2 === 0 ? "key" : "value"}`,
      type === "float16" ? Uint16Array.from(part, float16Bits) : part,
    );
  }
  return cells;
}
