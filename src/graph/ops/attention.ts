import { onnxDataType } from "../../base/dtype.js";
import { ShapeError } from "../../base/errors.js";
import { type Dim, equalShapes, formatShape, multiplyDims, subtractDims } from "../dims.js";
import { isObserved, observe } from "../observe.js";
import { defineOp } from "../op.js";
import type { Tensor } from "../tensor.js";
import { add, cast, clip, div, greater, lessEqual, logicalAnd, mul, neg, round, sub } from "./elementwise.js";
import { gather } from "./indexing.js";
import { range } from "./leaf.js";
import { softmax } from "./activation.js";
import { bandedAttention, isWorthBands } from "./banded-attention.js";
import { causalMask, maskBias, prefixMask } from "./masks.js";
import { matmul } from "./matmul.js";
import { type RandomStream, dropout } from "./random.js";
import { concat, flip, pad, reshape, slice, stack, transpose, unsqueeze } from "./shape.js";

export interface AttentionOptions {
  /** Whether a query sees only the keys up to its own position, the last query being at the last key. */
  readonly causal?: boolean;
  /** Keys that a causal query looks back on, itself included; undefined for all. */
  readonly window?: number | undefined;
  /** Bool `[batch, length]`: keys that every causal query sees, be they after it: the prefix of a prefix language model. */
  readonly prefix?: Tensor | undefined;
  /** Bool, broadcast to `[batch, numHeads, queryLength, keyLength]`: true where a query may look. */
  readonly mask?: Tensor | undefined;
  /** Added to the scores, broadcast like the mask: position biases. */
  readonly bias?: Tensor;
  /** Factor of the scores. Default `1 / sqrt(headSize)`. */
  readonly scale?: number;
  readonly dropout?: number;
  readonly random?: RandomStream | undefined;
}

/**
 * Scaled dot-product attention, Vaswani et al. 2017, equation 1. Query `[batch, numHeads, queryLength, headSize]`, key
 * and value `[batch, numKeyValueHeads, keyLength, headSize]` -> `[batch, numHeads, queryLength, headSize]`. Fewer
 * key-value heads than heads are shared by groups of queries, Ainslie et al. 2023; no key is copied for it.
 */
export function attention(query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions = {}): Tensor {
  const [batch, numHeads, queryLength, headSize] = query.shape;
  const [, numKeyValueHeads, keyLength] = key.shape;
  const shapes = `query ${formatShape(query.shape)}, key ${formatShape(key.shape)}, value ${formatShape(value.shape)}`;
  if (query.rank !== 4 || key.rank !== 4 || value.rank !== 4 || key.shape[3] !== headSize) {
    throw new ShapeError(
      `attention: needs [batch, heads, length, headSize] of one headSize each, not ${shapes}`,
    );
  }
  if (
    typeof numHeads !== "number" ||
    typeof numKeyValueHeads !== "number" ||
    numHeads % numKeyValueHeads !== 0
  ) {
    throw new ShapeError(
      `attention: the heads of the query must be a multiple of the key-value heads: ${shapes}`,
    );
  }
  const group = numHeads / numKeyValueHeads;
  const grouped = group > 1;
  const scale = options.scale ?? 1 / Math.sqrt(headSize as number);
  const queries = grouped
    ? reshape(query, [batch!, numKeyValueHeads, group, queryLength!, headSize!])
    : query;
  const keys = grouped ? unsqueeze(key, 2) : key;
  const values = grouped ? unsqueeze(value, 2) : value;
  const inGroups = (x: Tensor): Tensor => {
    if (!grouped || x.rank < 3) return x;
    const heads = x.shape.at(-3)!;
    const lead = x.shape.slice(0, -3);
    return heads === 1
      ? unsqueeze(x, -4)
      : reshape(x, [...lead, numKeyValueHeads, group, ...x.shape.slice(-2)]);
  };

  const { window, prefix } = options;
  if (prefix && window !== undefined)
    throw new ShapeError("attention: a prefix that every query sees has no window; leave one of them out");
  if (
    options.causal &&
    typeof queryLength === "number" &&
    window !== undefined &&
    isWorthBands(queryLength, window) &&
    keyLength === queryLength &&
    !options.mask &&
    !options.bias &&
    !isObserved()
  ) {
    const result = bandedAttention(queries, keys, values, { ...options, window, scale });
    return grouped ? reshape(result, [batch!, numHeads, queryLength, value.shape[3]!]) : result;
  }
  let scores = matmul(queries, keys, { transposeB: true, alpha: scale });
  if (options.bias) scores = add(scores, inGroups(options.bias));
  const before = subtractDims(keyLength!, queryLength!);
  const offset = typeof before === "number" ? before : 0;
  if (options.causal && prefix)
    scores = add(scores, maskBias(inGroups(prefixMask(prefix, offset)), scores.dtype));
  else if (options.causal) {
    scores = add(
      scores,
      maskBias(causalMask(queryLength!, keyLength!, offset, options.window), scores.dtype),
    );
  }
  if (options.mask) scores = add(scores, maskBias(inGroups(options.mask), scores.dtype));
  const probabilities = softmax(scores);
  observe(
    "attention",
    grouped ? reshape(probabilities, [batch!, numHeads, queryLength!, keyLength!]) : probabilities,
  );
  const result = matmul(dropout(probabilities, options.dropout ?? 0, options.random), values);
  return grouped ? reshape(result, [batch!, numHeads, queryLength!, value.shape[3]!]) : result;
}

interface RotaryAttributes {
  readonly interleaved: boolean;
}

const rotaryOp: (inputs: readonly Tensor[], attributes: RotaryAttributes) => Tensor =
  defineOp<RotaryAttributes>("rotary", {
    shape: ([x, cosine, sine]) => {
      const [batch, sequence, width] = x!.shape;
      for (const table of [cosine!, sine!]) {
        const [tableBatch, tableSequence, half] = table.shape;
        const fits =
          x!.rank === 3 &&
          table.rank === 3 &&
          (tableBatch === 1 || tableBatch === batch) &&
          tableSequence === sequence &&
          (width as number) % (2 * (half as number)) === 0;
        if (!fits) {
          throw new ShapeError(
            `the table ${formatShape(table.shape)} does not fit ${formatShape(x!.shape)}: it needs [batch or 1, sequence, headSize / 2] for [batch, sequence, heads * headSize]`,
          );
        }
      }
      return { dtype: x!.dtype, shape: x!.shape };
    },
    // The inverse of a rotation is the rotation by the negative angle.
    derivative: ({ inputs: [, cosine, sine], gradient, attributes }) => [
      rotaryOp([gradient, cosine!, neg(sine!)], attributes),
      undefined,
      undefined,
    ],
    // The engine looks its tables up by position: here each token's own row, in order.
    lower: ({ names: [x, cosine, sine], inputs, attributes: { interleaved } }, onnx) => {
      const [batch, sequence, width] = inputs[0]!.shape;
      const [tableBatch, , half] = inputs[1]!.shape;
      if (inputs[0]!.dtype !== "float32") return undefined;
      const rows = (table: string): string => onnx.op("Reshape", [table, onnx.ints([-1, half as number])]);
      const places =
        tableBatch === 1
          ? onnx.ints([0])
          : onnx.op("Reshape", [
              onnx.op("Range", [
                onnx.scalar("int64", 0),
                onnx.op("Squeeze", [onnx.dim(multiplyDims(batch!, sequence!)), onnx.ints([0])]),
                onnx.scalar("int64", 1),
              ]),
              onnx.shape([batch!, sequence!]),
            ]);
      return onnx.op(
        "RotaryEmbedding",
        [x!, places, rows(cosine!), rows(sine!)],
        {
          interleaved: Number(interleaved),
          num_heads: (width as number) / (2 * (half as number)),
          rotary_embedding_dim: 2 * (half as number),
        },
        { domain: "com.microsoft" },
      );
    },
    decompose: ([x, cosine, sine], { interleaved }) => {
      const [batch, sequence, width] = x!.shape;
      const half = cosine!.shape[2] as number;
      const heads = (width as number) / (2 * half);
      const pairs = interleaved
        ? reshape(x!, [batch!, sequence!, heads, half, 2])
        : reshape(x!, [batch!, sequence!, heads, 2, half]);
      const axis = interleaved ? 4 : 3;
      const part = (index: number): Tensor =>
        reshape(slice(pairs, axis, index, index + 1), [batch!, sequence!, heads, half]);
      const [a, b] = [part(0), part(1)];
      const [c, s] = [unsqueeze(cosine!, 2), unsqueeze(sine!, 2)];
      const turned = [sub(mul(a, c), mul(b, s)), add(mul(b, c), mul(a, s))];
      return reshape(stack(turned, axis), x!.shape);
    },
  });

/**
 * Rotary position embedding, Su et al. 2021, equation 34: pairs of channels of every head turned by an angle that grows
 * with the position. `x` `[batch, sequence, heads * headSize]`; cosine and sine `[batch or 1, sequence, headSize / 2]`.
 * Pairs are channels `i` and `i + headSize / 2` of a head (LLaMA), or neighbours when `interleaved` (GPT-J).
 */
export const rotary = (x: Tensor, cosine: Tensor, sine: Tensor, { interleaved = false } = {}): Tensor =>
  rotaryOp([x, cosine, sine], { interleaved });

/** Cosine and sine of every position's angles, all heads of all layers alike. */
export interface RotaryTables {
  /** Of the positions of a pass: `[batch or 1, sequence, headSize / 2]`. */
  readonly cosine: Tensor;
  readonly sine: Tensor;
  /** Of the slots of a cache, where every token's slot is its position: `[slots, headSize / 2]`. */
  readonly bySlot?: { readonly cosine: Tensor; readonly sine: Tensor } | undefined;
}

interface CachedAttentionAttributes {
  readonly numHeads: number;
  readonly numKeyValueHeads: number;
  readonly scale: number;
  /** Keys that a query looks back on, itself included; -1 for all. */
  readonly window: number;
  readonly presentLength: Dim | undefined;
  /** Which of the inputs there are that may be missing. */
  readonly turned: boolean;
  readonly biased: boolean;
}

/** `[batch, heads, cells, headSize]` with the new tokens' parts in their cells, int32 `[batch, sequence]`. */
const writeCellsOp = defineOp("writeCells", {
  shape: ([past, cells, values]) => {
    const [batch, heads, , headSize] = past!.shape;
    const shape = [batch!, heads!, cells!.shape[1]!, headSize!];
    if (!equalShapes(values!.shape, shape) || values!.dtype !== past!.dtype)
      throw new ShapeError(`${values!.describe()} does not go into cells of ${past!.describe()}`);
    return { dtype: past!.dtype, shape: past!.shape };
  },
  lower: ({ names: [past, cells, values], inputs }, onnx) => {
    const [batch, heads, sequence] = inputs[2]!.shape as [Dim, Dim, Dim];
    // The same for keys and values and for all layers.
    const places = onnx.once(`cells ${cells!} of ${heads}`, () => {
      const whole = onnx.shape([batch, heads, sequence, 1]);
      const along = (x: string, axes: number[]): string =>
        onnx.op("Expand", [onnx.op("Unsqueeze", [x, onnx.ints(axes)]), whole]);
      const count = (length: Dim): string =>
        onnx.op("Range", [
          onnx.scalar("int64", 0),
          onnx.op("Squeeze", [onnx.dim(length), onnx.ints([0])]),
          onnx.scalar("int64", 1),
        ]);
      const wide = onnx.op("Cast", [cells!], { to: onnxDataType("int64") });
      return onnx.op(
        "Concat",
        [along(count(batch), [1, 2, 3]), along(count(heads), [0, 2, 3]), along(wide, [1, 3])],
        { axis: 3 },
      );
    });
    // Where past and present are one buffer, the engine writes these elements and copies nothing.
    return onnx.op("ScatterND", [past!, places, values!]);
  },
});

/** Whole numbers of a step each, as an int8 cache holds them. */
const rounded = (x: Tensor, scale: Tensor): Tensor => cast(clip(round(div(x, scale)), -128, 127), "int8");

const cachedAttentionOp = defineOp<CachedAttentionAttributes>("cachedAttention", {
  shape: (
    [query, key, value, pastKey, pastValue, lastPosition, totalLength, ...rest],
    { numHeads, numKeyValueHeads, presentLength, turned },
  ) => {
    const headSize = pastKey!.shape[3];
    const [batch, sequence, width] = query!.shape;
    const inputs = `query ${query!.describe()}, key ${key!.describe()}, value ${value!.describe()}, cache ${pastKey!.describe()}`;
    const fits =
      typeof headSize === "number" &&
      width === numHeads * headSize &&
      key!.shape[2] === numKeyValueHeads * headSize &&
      value!.shape[2] === numKeyValueHeads * headSize &&
      pastKey!.shape[1] === numKeyValueHeads &&
      pastKey!.shape[0] === batch &&
      formatShape(pastKey!.shape) === formatShape(pastValue!.shape);
    if (!fits)
      throw new ShapeError(`the heads do not fit: ${inputs} with ${numHeads} heads over ${numKeyValueHeads}`);
    if (lastPosition!.dtype !== "int32" || totalLength!.dtype !== "int32") {
      throw new ShapeError(
        `the positions must be int32, not ${lastPosition!.describe()} and ${totalLength!.describe()}`,
      );
    }
    const tables = turned ? rest.slice(0, 2) : [];
    if (tables.some(({ shape }) => shape.length !== 2 || shape[1] !== headSize / 2)) {
      throw new ShapeError(
        `the angles of the slots must be [slots, ${headSize / 2}], not ${tables.map((table) => table.describe()).join(" and ")}`,
      );
    }
    const scaleShape = [1, numKeyValueHeads, 1, headSize];
    if (
      pastKey!.dtype === "int8" &&
      (rest.length < 2 || rest.slice(-2).some((scale) => !equalShapes(scale.shape, scaleShape)))
    ) {
      throw new ShapeError(
        `an int8 cache needs a scale for each channel of keys and of values, float32 ${formatShape(scaleShape)}`,
      );
    }
    const present = pastKey!.shape.map((dim, axis) => (axis === 2 ? (presentLength ?? dim) : dim));
    return [
      { dtype: query!.dtype, shape: [batch!, sequence!, width] },
      { dtype: pastKey!.dtype, shape: present },
      { dtype: pastValue!.dtype, shape: present },
    ];
  },
  lower: ({ names, inputs, attributes }, onnx) => {
    const quantized = inputs[3]!.dtype === "int8";
    // The engine has this operator for float16 alone there: it would compute others on the processor, all of the cache
    // going there and back.
    if (onnx.device === "cuda" && inputs[3]!.dtype !== "float16") return undefined;
    const products = names.slice(0, 3);
    const packed = onnx.wholeOf(products);
    const rest = names.slice(7);
    const tables = attributes.turned ? rest.splice(0, 2) : ["", ""];
    const [bias = ""] = attributes.biased ? rest.splice(0, 1) : [];
    const [positions, sinks] = ["", ""];
    const all = [
      ...(packed === undefined ? products : [packed, "", ""]),
      ...names.slice(3, 7),
      ...tables,
      positions,
      bias,
      sinks,
      ...rest,
    ];
    while (all.at(-1) === "") all.pop();
    return onnx.ops(
      "GroupQueryAttention",
      all,
      {
        num_heads: attributes.numHeads,
        kv_num_heads: attributes.numKeyValueHeads,
        scale: { float: attributes.scale },
        local_window_size: attributes.window,
        ...(attributes.turned && { do_rotary: 1 }),
        ...(quantized && {
          k_quant_type: "PER_CHANNEL",
          v_quant_type: "PER_CHANNEL",
          kv_cache_bit_width: 8,
        }),
      },
      { domain: "com.microsoft", outputs: 3 },
    );
  },
  decompose: (
    [query, key, value, pastKey, pastValue, lastPosition, , ...rest],
    { numHeads, numKeyValueHeads, scale, window, presentLength, turned, biased },
  ) => {
    const [batch, sequence] = query!.shape as [Dim, Dim];
    const headSize = pastKey!.shape[3]!;
    const capacity = presentLength ?? pastKey!.shape[2]!;
    const before = unsqueeze(flip(range(sequence, "int32"), 0), 0);
    const cells = sub(unsqueeze(lastPosition!, 1), before);
    const tables = turned ? rest.splice(0, 2).map((table) => gather(table, cells)) : [];
    const [bias] = biased ? rest.splice(0, 1) : [];
    const placed = (x: Tensor): Tensor => (turned ? rotaryOp([x, ...tables], { interleaved: false }) : x);
    const inHeads = (x: Tensor, heads: number): Tensor =>
      transpose(reshape(x, [batch, sequence, heads, headSize]), [0, 2, 1, 3]);
    const written = (past: Tensor, x: Tensor, steps: Tensor | undefined): Tensor => {
      const all = capacity === past.shape[2] ? past : pad(past, 2, 0, subtractDims(capacity, past.shape[2]!));
      const heads = inHeads(x, numKeyValueHeads);
      return writeCellsOp([all, cells, steps ? rounded(heads, steps) : heads]);
    };
    const kept = [written(pastKey!, placed(key!), rest[0]), written(pastValue!, value!, rest[1])] as const;
    const [keys, values] = kept.map((part, index) =>
      rest[index] ? mul(cast(part, query!.dtype), rest[index]) : part,
    ) as [Tensor, Tensor];
    const from = unsqueeze(unsqueeze(range(capacity, "int32"), 0), 0);
    const to = unsqueeze(cells, 2);
    const seen = lessEqual(from, to);
    const mask = window < 0 ? seen : logicalAnd(seen, greater(from, sub(to, window)));
    const output = attention(inHeads(placed(query!), numHeads), keys, values, {
      scale,
      mask: unsqueeze(mask, 1),
      ...(bias && { bias: pad(bias, 3, 0, subtractDims(capacity, bias.shape[3]!)) }),
    });
    return [
      reshape(transpose(output, [0, 2, 1, 3]), [batch, sequence, multiplyDims(numHeads, headSize)]),
      ...kept,
    ];
  },
});

export interface KeyValueCache {
  /**
   * Float32, float16 or int8 `[batch, numKeyValueHeads, capacity, headSize]`; a run binds one buffer as the past and as
   * the present.
   */
  readonly key: Tensor;
  readonly value: Tensor;
  /** Int32 `[batch]`: each row's number of keys after this step, less one. */
  readonly lastPosition: Tensor;
  /** Int32 scalar: the largest number of keys after this step of any row. */
  readonly totalLength: Tensor;
  /** Added to the scores: float32 `[batch or 1, numHeads or 1, sequence, totalLength]`. */
  readonly bias?: Tensor | undefined;
  /** Of an int8 cache: what its whole numbers stand for, float32 `[1, numKeyValueHeads, 1, headSize]`. */
  readonly scales?: { readonly key: Tensor; readonly value: Tensor } | undefined;
  /** Positions that the present has, where it is not the past's own buffer. */
  readonly presentLength?: Dim | undefined;
}

/** Channels that the cache of a head takes: the engine's cached attention knows multiples of 8 alone. */
export const cachedHeadSize = (headSize: number): number => 8 * Math.ceil(headSize / 8);

/** Cached attention of heads that are narrower than the cache's: zeros behind their channels change no product. */
function paddedAttention(
  query: Tensor,
  key: Tensor,
  value: Tensor,
  cache: KeyValueCache,
  { rotary: tables, ...options }: Parameters<typeof cachedAttention>[4],
  ownSize: number,
): ReturnType<typeof cachedAttention> {
  const wide = Number(cache.key.shape[3]);
  const { numHeads, numKeyValueHeads, scale = 1 / Math.sqrt(ownSize) } = options;
  const turned = (x: Tensor): Tensor => (tables ? rotary(x, tables.cosine, tables.sine) : x);
  const padded = (x: Tensor, heads: number): Tensor => {
    const [batch, sequence] = x.shape as [Dim, Dim];
    const parts = reshape(x, [batch, sequence, heads, ownSize]);
    const zeros = mul(slice(parts, 3, 0, wide - ownSize), 0);
    return reshape(concat([parts, zeros], 3), [batch, sequence, heads * wide]);
  };
  const step = cachedAttention(
    padded(turned(query), numHeads),
    padded(turned(key), numKeyValueHeads),
    padded(value, numKeyValueHeads),
    cache,
    { ...options, scale },
  );
  const [batch, sequence] = step.output.shape as [Dim, Dim];
  const parts = slice(reshape(step.output, [batch, sequence, numHeads, wide]), 3, 0, ownSize);
  return { ...step, output: reshape(parts, [batch, sequence, numHeads * ownSize]) };
}

/** The engine's attention turns queries and keys itself where heads have a multiple of this many channels. */
const turnedChannels = 16;

/**
 * Causal attention that keeps its keys and values in a cache of fixed capacity: query `[batch, sequence, numHeads *
 * headSize]`, key and value `[batch, sequence, numKeyValueHeads * headSize]`. With the cache's buffers bound as inputs and
 * outputs, a step writes the new positions in place and copies nothing. It has no derivative.
 * @param options.rotary turns queries and keys by their positions first, as `rotary` does
 */
export function cachedAttention(
  query: Tensor,
  key: Tensor,
  value: Tensor,
  cache: KeyValueCache,
  options: {
    numHeads: number;
    numKeyValueHeads: number;
    scale?: number;
    window?: number | undefined;
    rotary?: RotaryTables;
  },
): { output: Tensor; key: Tensor; value: Tensor } {
  const { numHeads, numKeyValueHeads, window = -1, rotary: tables } = options;
  const headSize = Number(cache.key.shape[3]);
  const ownSize = Number(query.shape[2]) / numHeads;
  if (ownSize < headSize) return paddedAttention(query, key, value, cache, options, ownSize);
  const scale = options.scale ?? 1 / Math.sqrt(headSize);
  // The engine itself rounds keys and values to 8 bits; the query stays as it is.
  const dtype = cache.key.dtype === "int8" ? query.dtype : cache.key.dtype;
  // Angles are float32: what the cache keeps in fewer bits is turned before it is rounded.
  const turned = dtype === "float32" && headSize % turnedChannels === 0 ? tables?.bySlot : undefined;
  const placed = (x: Tensor): Tensor =>
    cast(tables && !turned ? rotary(x, tables.cosine, tables.sine) : x, dtype);
  const [output, presentKey, presentValue] = cachedAttentionOp(
    [
      placed(query),
      placed(key),
      cast(value, dtype),
      cache.key,
      cache.value,
      cache.lastPosition,
      cache.totalLength,
      ...(turned ? [turned.cosine, turned.sine] : []),
      ...(cache.bias ? [cast(cache.bias, dtype)] : []),
      ...(cache.scales ? [cache.scales.key, cache.scales.value] : []),
    ],
    {
      numHeads,
      numKeyValueHeads,
      scale,
      window,
      presentLength: cache.presentLength,
      turned: turned !== undefined,
      biased: cache.bias !== undefined,
    },
  ).node.outputs;
  return { output: cast(output!, query.dtype), key: presentKey!, value: presentValue! };
}
