import { z } from "zod";
import { validated } from "../base/check.js";
import { LineageError } from "../base/errors.js";
import type { Warn } from "../base/warnings.js";
import { type ConfigJson, type Field, checked } from "./config-table.js";
import { configEntries } from "./config.js";
import {
  type RotaryTables,
  type Tensor,
  constant,
  cos,
  exp,
  greater,
  log,
  max,
  maximum,
  mul,
  range,
  reshape,
  sin,
  unsqueeze,
  where,
} from "../graph/index.js";

/** How rotary positions reach beyond the context of pretraining, by the names of Hugging Face's `rope_scaling`. */
export type RotaryScaling =
  /** Positions divided by `factor`, Chen et al. 2023, "Extending Context Window of Large Language Models via Positional Interpolation". */
  | { readonly kind: "linear"; readonly factor: number }
  /** A base that grows with the sequence once it is longer than the context: "dynamic NTK-aware" scaling. */
  | { readonly kind: "dynamic"; readonly factor: number }
  /** LLaMA-3.1: low frequencies are divided by `factor`, high ones kept, those between interpolated. */
  | {
      readonly kind: "llama3";
      readonly factor: number;
      readonly lowFrequencyFactor: number;
      readonly highFrequencyFactor: number;
      readonly originalContextLength: number;
    }
  /** YaRN, Peng et al. 2023: interpolation by parts, and attention scaled by `attentionFactor`. */
  | {
      readonly kind: "yarn";
      readonly factor: number;
      readonly originalContextLength: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      readonly attentionFactor: number;
      /** Whether the bounds of the interpolated range are whole channels. */
      readonly truncate: boolean;
    }
  /** LongRoPE, Ding et al. 2024: every frequency divided by a factor of its own, one for short texts and one for long ones. */
  | {
      readonly kind: "longrope";
      /** `headSize / 2` each. */
      readonly shortFactors: readonly number[];
      readonly longFactors: readonly number[];
      /** Tokens up to which a text is short. */
      readonly originalContextLength: number;
      readonly attentionFactor: number;
    };

export interface RotaryConfig {
  readonly headSize: number;
  /** Base of the geometric progression of wavelengths. */
  readonly ropeTheta: number;
  readonly ropeScaling?: RotaryScaling | undefined;
  readonly contextLength: number;
}

/** Positions that a text may have: what the model was made for, or what its scaling makes of that. */
export function scaledContext({
  contextLength,
  ropeScaling,
}: Pick<RotaryConfig, "contextLength" | "ropeScaling">): number {
  switch (ropeScaling?.kind) {
    case "linear":
    case "dynamic":
      return Math.floor(contextLength * ropeScaling.factor);
    case "yarn":
      // The entry holds the context before scaling in some configurations and the one after it in others.
      return Math.max(contextLength, Math.floor(ropeScaling.originalContextLength * ropeScaling.factor));
    default:
      return contextLength;
  }
}

/** A number that two lengths of a text share where tokens of both are turned by the same angles. */
export function rotaryReach(
  { contextLength, ropeScaling }: Pick<RotaryConfig, "contextLength" | "ropeScaling">,
  length: number,
): number {
  switch (ropeScaling?.kind) {
    case "dynamic":
      return Math.max(length, contextLength);
    case "longrope":
      return Number(length > ropeScaling.originalContextLength);
    default:
      return 0;
  }
}

/** Throws `config` where a scaling does not fit the heads. */
export function checkRotaryScaling({
  headSize,
  ropeScaling,
}: Omit<RotaryConfig, "contextLength" | "ropeTheta">): void {
  if (ropeScaling?.kind === "dynamic" && headSize < 4)
    throw new LineageError("config", "dynamic scaling of positions needs heads of 4 channels or more");
  if (ropeScaling?.kind !== "longrope") return;
  for (const [name, { length }] of [
    ["short_factor", ropeScaling.shortFactors],
    ["long_factor", ropeScaling.longFactors],
  ] as const)
    if (length !== headSize / 2)
      throw new LineageError(
        "config",
        `rope_scaling: ${name} has ${length} numbers; heads of ${headSize} channels need ${headSize / 2}`,
      );
}

const exponents = (headSize: number): number[] =>
  Array.from({ length: headSize / 2 }, (_, pair) => (2 * pair) / headSize);

/**
 * Radians that each pair of channels turns by from one position to the next, Su et al. 2021, section 3.2.2, with the scaling
 * applied; of a text within the original context, where they depend on its length.
 */
export function rotaryFrequencies({ headSize, ropeTheta, ropeScaling }: RotaryConfig): number[] {
  const plain = exponents(headSize).map((exponent) => ropeTheta ** -exponent);
  switch (ropeScaling?.kind) {
    case undefined:
    case "dynamic":
      return plain;
    case "linear":
      return plain.map((frequency) => frequency / ropeScaling.factor);
    case "longrope":
      return plain.map((frequency, pair) => frequency / ropeScaling.shortFactors[pair]!);
    case "llama3": {
      const {
        factor,
        lowFrequencyFactor: low,
        highFrequencyFactor: high,
        originalContextLength,
      } = ropeScaling;
      return plain.map((frequency) => {
        const turns = (originalContextLength * frequency) / (2 * Math.PI);
        const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)));
        return kept * frequency + ((1 - kept) * frequency) / factor;
      });
    }
    case "yarn": {
      const { factor, originalContextLength, betaFast, betaSlow, truncate } = ropeScaling;
      const channelOf = (turns: number): number =>
        (headSize * Math.log(originalContextLength / (turns * 2 * Math.PI))) / (2 * Math.log(ropeTheta));
      const [from, to] = [channelOf(betaFast), channelOf(betaSlow)];
      const low = Math.max(truncate ? Math.floor(from) : from, 0);
      const high = Math.min(truncate ? Math.ceil(to) : to, headSize - 1);
      return plain.map((frequency, pair) => {
        const interpolated = Math.min(1, Math.max(0, (pair - low) / (high === low ? 0.001 : high - low)));
        return (interpolated * frequency) / factor + (1 - interpolated) * frequency;
      });
    }
  }
}

/** What rotary tables have to know of a cache. */
export interface RotaryCache {
  /**
   * Int64 `[batch]`: tokens of each whole sequence, where the pass sees a part of it. Dynamic scaling and LongRoPE depend
   * on it. Default: the largest position and one.
   */
  readonly length?: Tensor | undefined;
  /** Slots of the cache, where every token's slot is its position. */
  readonly slots?: number | undefined;
}

/** The tables of `positions`, int64 `[batch, sequence]`. All layers of a model share them. */
export function rotaryTables(
  config: RotaryConfig,
  positions: Tensor,
  { length, slots }: RotaryCache = {},
): RotaryTables {
  const { headSize, ropeScaling } = config;
  const scale =
    ropeScaling?.kind === "yarn" || ropeScaling?.kind === "longrope" ? ropeScaling.attentionFactor : 1;
  const tables = (places: Tensor, frequencies: Tensor) => {
    const angles = mul(unsqueeze(places.cast("float32"), -1), frequencies);
    return { cosine: mul(cos(angles), scale), sine: mul(sin(angles), scale) };
  };
  if (ropeScaling?.kind === "dynamic" || ropeScaling?.kind === "longrope") {
    const reach = length ?? max(positions, { axes: -1 }).add(1);
    return tables(
      positions,
      ropeScaling.kind === "dynamic"
        ? dynamicFrequencies(config, ropeScaling.factor, reach)
        : longFrequencies(config, ropeScaling, reach),
    );
  }
  const frequencies = constant("float32", [headSize / 2], rotaryFrequencies(config));
  return {
    ...tables(positions, frequencies),
    // The engine computes these once, when the program is made.
    bySlot: slots === undefined ? undefined : tables(range(slots, "int64"), frequencies),
  };
}

/** Frequencies of a base that lets the lowest of them reach `length` tokens; `[batch, 1, headSize / 2]`. */
function dynamicFrequencies(
  { headSize, ropeTheta, contextLength }: RotaryConfig,
  factor: number,
  length: Tensor,
): Tensor {
  const reach = maximum(reshape(length.cast("float32"), [length.dim(0), 1, 1]), contextLength);
  const growth = reach.mul(factor / contextLength).sub(factor - 1);
  const logBase = log(growth)
    .mul(headSize / (headSize - 2))
    .add(Math.log(ropeTheta));
  const negative = exponents(headSize).map((exponent) => -exponent);
  return exp(mul(constant("float32", [headSize / 2], negative), logBase));
}

/** Frequencies of short and of long texts, each where it belongs; `[batch, 1, headSize / 2]`. */
function longFrequencies(
  config: RotaryConfig,
  scaling: RotaryScaling & { readonly kind: "longrope" },
  length: Tensor,
): Tensor {
  const plain = rotaryFrequencies({ ...config, ropeScaling: undefined });
  const [short, long] = [scaling.shortFactors, scaling.longFactors].map((factors) =>
    constant(
      "float32",
      [plain.length],
      plain.map((frequency, pair) => frequency / factors[pair]!),
    ),
  );
  const isLong = greater(reshape(length, [length.dim(0), 1, 1]), scaling.originalContextLength);
  return where(isLong, long!, short!);
}

const factor = z.number().min(1);
const factors = z.array(z.number().positive()).min(1);
const scalingSchema = z.discriminatedUnion("rope_type", [
  z.object({ rope_type: z.literal("default") }),
  z.object({ rope_type: z.literal("linear"), factor }),
  z.object({ rope_type: z.literal("dynamic"), factor }),
  z.object({
    rope_type: z.literal("llama3"),
    factor,
    low_freq_factor: z.number().positive(),
    high_freq_factor: z.number().positive(),
    original_max_position_embeddings: z.int().positive(),
  }),
  z.object({
    rope_type: z.literal("yarn"),
    factor: factor.nullish(),
    original_max_position_embeddings: z.int().positive().nullish(),
    beta_fast: z.number().positive().nullish(),
    beta_slow: z.number().positive().nullish(),
    attention_factor: z.number().positive().nullish(),
    mscale: z.number().nullish(),
    mscale_all_dim: z.number().nullish(),
    truncate: z
      .boolean()
      .nullable()
      .default(true)
      .transform((value) => value ?? false),
  }),
  z.object({
    rope_type: z.literal("longrope"),
    short_factor: factors,
    long_factor: factors,
    factor: z.number().positive().nullish(),
    original_max_position_embeddings: z.int().positive().nullish(),
    attention_factor: z.number().positive().nullish(),
  }),
]);

/** Entries that some scaling has, or that say the same of all: an entry beyond them is nobody's. */
const knownEntries = new Set([
  "rope_theta",
  "type",
  "finetuned",
  "original_max_position_embeddings",
  "partial_rotary_factor",
  ...scalingSchema.options.flatMap((option) => Object.keys(option.shape)),
]);

/**
 * The scaling in the `rope_scaling` of a `config.json`, or in the `rope_parameters` of transformers 5. Throws `config` saying
 * which entry is wrong; warns of those that nobody knows.
 * @param context.originalContextLength what stands beside the scaling, and not within
 */
export function rotaryScalingFromHuggingFace(
  json: unknown,
  context: { readonly contextLength: number; readonly originalContextLength?: number | undefined },
  warn: Warn = () => undefined,
): RotaryScaling | undefined {
  if (json === undefined || json === null) return undefined;
  if (typeof json !== "object" || Array.isArray(json))
    throw new LineageError("config", "rope_scaling is not a JSON object");
  // Configurations written before transformers 4.43 call it `type`, and LongRoPE by its first name.
  const { type, ...entries } = json as Record<string, unknown>;
  const named: unknown = entries["rope_type"] ?? type;
  const scaling = validated(
    scalingSchema,
    { ...entries, rope_type: named === "su" ? "longrope" : named },
    (problem) =>
      new LineageError(
        "config",
        `rope_scaling: ${problem}; lineage knows the types linear, dynamic, llama3, yarn and longrope`,
      ),
  );
  const partial = entries["partial_rotary_factor"] ?? 1;
  if (partial !== 1)
    throw new LineageError(
      "config",
      `partial_rotary_factor is ${JSON.stringify(partial)}, but lineage turns all channels of a head here`,
    );
  const unknown = Object.keys(entries).filter((name) => !knownEntries.has(name));
  if (unknown.length > 0)
    warn(`config.json: lineage does not know ${unknown.join(", ")} of rope_scaling and ignores it`);
  switch (scaling.rope_type) {
    case "default":
      return undefined;
    case "linear":
    case "dynamic":
      return { kind: scaling.rope_type, factor: scaling.factor };
    case "llama3": {
      if (scaling.high_freq_factor <= scaling.low_freq_factor)
        throw new LineageError(
          "config",
          `rope_scaling: high_freq_factor ${scaling.high_freq_factor} must be more than low_freq_factor ${scaling.low_freq_factor}`,
        );
      return {
        kind: "llama3",
        factor: scaling.factor,
        lowFrequencyFactor: scaling.low_freq_factor,
        highFrequencyFactor: scaling.high_freq_factor,
        originalContextLength: scaling.original_max_position_embeddings,
      };
    }
    case "yarn": {
      const { mscale, mscale_all_dim: mscaleAll } = scaling;
      const original =
        scaling.original_max_position_embeddings ?? context.originalContextLength ?? context.contextLength;
      const own = scaling.factor ?? Math.max(1, context.contextLength / original);
      const magnitude = (weight = 1): number => 0.1 * weight * Math.log(own) + 1;
      return {
        kind: "yarn",
        factor: own,
        originalContextLength: original,
        betaFast: scaling.beta_fast ?? 32,
        betaSlow: scaling.beta_slow ?? 1,
        attentionFactor:
          scaling.attention_factor ??
          (mscale && mscaleAll ? magnitude(mscale) / magnitude(mscaleAll) : magnitude()),
        truncate: scaling.truncate,
      };
    }
    case "longrope": {
      const { contextLength, originalContextLength: beside } = context;
      const original = beside ?? scaling.original_max_position_embeddings ?? contextLength;
      // What stands beside goes before `factor`, as in Phi-3.
      const growth = (beside === undefined ? scaling.factor : undefined) ?? contextLength / original;
      return {
        kind: "longrope",
        shortFactors: scaling.short_factor,
        longFactors: scaling.long_factor,
        originalContextLength: original,
        attentionFactor:
          scaling.attention_factor ??
          (growth <= 1 ? 1 : Math.sqrt(1 + Math.log(growth) / Math.log(original))),
      };
    }
  }
}

/** The `rope_scaling` of a `config.json`. */
export function rotaryScalingToHuggingFace(
  scaling: RotaryScaling | undefined,
): Record<string, unknown> | null {
  switch (scaling?.kind) {
    case undefined:
      return null;
    case "linear":
    case "dynamic":
      return { rope_type: scaling.kind, factor: scaling.factor };
    case "llama3":
      return {
        rope_type: "llama3",
        factor: scaling.factor,
        low_freq_factor: scaling.lowFrequencyFactor,
        high_freq_factor: scaling.highFrequencyFactor,
        original_max_position_embeddings: scaling.originalContextLength,
      };
    case "yarn":
      return {
        rope_type: "yarn",
        factor: scaling.factor,
        original_max_position_embeddings: scaling.originalContextLength,
        beta_fast: scaling.betaFast,
        beta_slow: scaling.betaSlow,
        attention_factor: scaling.attentionFactor,
        truncate: scaling.truncate,
      };
    case "longrope":
      return {
        rope_type: "longrope",
        short_factor: scaling.shortFactors,
        long_factor: scaling.longFactors,
        original_max_position_embeddings: scaling.originalContextLength,
        attention_factor: scaling.attentionFactor,
      };
  }
}

// ---- Fields of configurations -------------------------------------------------------------------------------------

/** Transformers 5 keeps base and scaling together in `rope_parameters`; older configurations have an entry for each. */
const ropeParameters = (json: ConfigJson): ConfigJson => {
  const entries = json["rope_parameters"] ?? {};
  if (typeof entries !== "object" || Array.isArray(entries))
    throw new LineageError("config", "rope_parameters is not a JSON object");
  return entries as ConfigJson;
};

/** The base of the rotary wavelengths as a field of a configuration. */
export const ropeThetaField: Field<number> = {
  entries: ["rope_theta", "rope_parameters"],
  schema: configEntries.positive,
  read: (json) =>
    checked(
      configEntries.positive,
      ropeParameters(json)["rope_theta"] ?? json["rope_theta"] ?? 10_000,
      "rope_theta",
    ),
  write: (value) => ({ rope_theta: value }),
  published: () => 10_000,
};

/** The scaling of rotary positions as a field of a configuration. */
export const ropeScalingField: Field<RotaryScaling | undefined, { readonly contextLength: number }> = {
  entries: ["rope_scaling", "rope_parameters", "original_max_position_embeddings"],
  schema: z.custom<RotaryScaling | undefined>(),
  read: (json, { contextLength }, warn) => {
    const own = Object.entries(ropeParameters(json)).filter(([name]) => name !== "rope_theta");
    return rotaryScalingFromHuggingFace(
      own.length > 0 ? Object.fromEntries(own) : json["rope_scaling"],
      {
        contextLength,
        originalContextLength:
          checked(
            configEntries.size.nullish(),
            json["original_max_position_embeddings"],
            "original_max_position_embeddings",
          ) ?? undefined,
      },
      warn,
    );
  },
  write: (value) => ({
    rope_scaling: rotaryScalingToHuggingFace(value),
    // Transformers 4 looks for it here.
    ...(value?.kind === "longrope" && { original_max_position_embeddings: value.originalContextLength }),
  }),
  published: () => undefined,
};
