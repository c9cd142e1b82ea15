import { FormatError, LineageError } from "../../base/errors.js";
import { type RotaryConfig, type RotaryScaling, rotaryFrequencies } from "../../nn/index.js";
import type { GgufFile, GgufValue } from "./file.js";
import { decimal } from "./model.js";

/** What rotary positions are to a GGUF: entries of its metadata without the architecture, and vectors. */
export interface GgufRope {
  readonly metadata: Readonly<Record<string, GgufValue>>;
  /** One-dimensional tensors in float32. */
  readonly vectors: Readonly<Record<string, Float32Array>>;
}

const frequencyFactors = "rope_freqs.weight";
/** Of LongRoPE. */
const [shortFactors, longFactors] = ["rope_factors_short.weight", "rope_factors_long.weight"] as const;

/** By what a scaling divides each rotary frequency. */
function divisors(config: RotaryConfig): Float32Array {
  const plain = rotaryFrequencies({ ...config, ropeScaling: undefined });
  const scaled = rotaryFrequencies(config);
  return Float32Array.from(plain, (frequency, pair) => frequency / scaled[pair]!);
}

/**
 * How a GGUF scales its positions. Throws `unsupported` for what lineage does not compute.
 * @param config.ropeScaling is what is asked for and need not be there
 */
export async function ropeScalingOfGguf(
  gguf: GgufFile,
  config: Omit<RotaryConfig, "ropeScaling">,
): Promise<RotaryScaling | undefined> {
  const architecture = gguf.require("general.architecture", "string");
  const number = (key: string) => gguf.get(`${architecture}.rope.${key}`, "number");
  const unsupported = (what: string): never => {
    throw new LineageError("unsupported", `${gguf.path}: ${what}, which lineage does not compute`);
  };
  const turned = number("dimension_count");
  if (turned !== undefined && turned !== config.headSize)
    unsupported(`positions turn ${turned} of the ${config.headSize} channels of a head`);
  if (gguf.tensors.has(frequencyFactors)) return llama3Scaling(gguf, config);
  const kind = gguf.get(`${architecture}.rope.scaling.type`, "string");
  const given = number("scaling.factor") ?? number("scale_linear") ?? 0;
  const factor = decimal(given);
  // As llama.cpp has it, a factor without a type is linear, and a factor of 0 or 1 is none.
  switch (kind ?? "linear") {
    case "none":
      return undefined;
    case "linear":
      return factor === 0 || factor === 1 ? undefined : { kind: "linear", factor };
    case "longrope": {
      if (factor > 1) return unsupported("positions are scaled by longrope and by a factor besides");
      const missing = [shortFactors, longFactors].find((name) => !gguf.tensors.has(name));
      if (missing !== undefined)
        throw new FormatError(
          gguf.path,
          `positions are scaled by longrope, but there is no tensor ${missing}`,
        );
      const [short, long] = await Promise.all([gguf.readValues(shortFactors), gguf.readValues(longFactors)]);
      return {
        kind: "longrope",
        shortFactors: Array.from(short, decimal),
        longFactors: Array.from(long, decimal),
        originalContextLength: number("scaling.original_context_length") ?? config.contextLength,
        attentionFactor: decimal(number("scaling.attn_factor") ?? 1),
      };
    }
    case "yarn": {
      if (factor === 0) return unsupported("positions are scaled by yarn without a factor");
      if ((number("scaling.yarn_ext_factor") ?? 1) !== 1)
        return unsupported("positions are scaled by yarn with an extrapolation of its own");
      return {
        kind: "yarn",
        factor,
        originalContextLength: number("scaling.original_context_length") ?? config.contextLength,
        betaFast: number("scaling.yarn_beta_fast") ?? 32,
        betaSlow: number("scaling.yarn_beta_slow") ?? 1,
        attentionFactor:
          yarnMagnitude(factor) *
          (number("scaling.attn_factor") ?? 1) *
          (number("scaling.yarn_attn_factor") ?? 1),
        truncate: true,
      };
    }
    default:
      return unsupported(`positions are scaled by ${kind}`);
  }
}

/** YaRN's factor of attention unless a configuration has another, Peng et al. 2023, equation 22. */
const yarnMagnitude = (factor: number): number => 0.1 * Math.log(factor) + 1;

/** LLaMA-3's scaling from the divisors of the frequencies, which are all that a GGUF keeps of it. */
async function llama3Scaling(
  gguf: GgufFile,
  config: Omit<RotaryConfig, "ropeScaling">,
): Promise<RotaryScaling> {
  const factors = await gguf.readValues(frequencyFactors);
  const scaling: RotaryScaling = {
    kind: "llama3",
    factor: decimal(factors.reduce((a, b) => Math.max(a, b), 1)),
    lowFrequencyFactor: 1,
    highFrequencyFactor: 4,
    originalContextLength: 8192,
  };
  const expected = divisors({ ...config, ropeScaling: scaling });
  if (
    factors.length !== expected.length ||
    factors.some((value, i) => Math.abs(value / expected[i]! - 1) > 1e-4)
  )
    throw new LineageError(
      "unsupported",
      `${gguf.path}: ${frequencyFactors} is not the scaling of LLaMA-3, the one that lineage knows`,
    );
  return scaling;
}

/** The words of a GGUF for a scaling of positions. Throws `unsupported` where llama.cpp has none. */
export function ropeScalingToGguf(config: RotaryConfig): GgufRope {
  const { ropeScaling: scaling } = config;
  const text = (value: string): GgufValue => ({ type: "string", value });
  const float = (value: number): GgufValue => ({ type: "float32", value });
  const whole = (value: number): GgufValue => ({ type: "uint32", value });
  switch (scaling?.kind) {
    case undefined:
      return { metadata: {}, vectors: {} };
    case "linear":
      return {
        metadata: { "rope.scaling.type": text("linear"), "rope.scaling.factor": float(scaling.factor) },
        vectors: {},
      };
    case "llama3":
      return { metadata: {}, vectors: { [frequencyFactors]: divisors(config) } };
    case "longrope":
      return {
        metadata: {
          "rope.scaling.type": text("longrope"),
          "rope.scaling.original_context_length": whole(scaling.originalContextLength),
          "rope.scaling.attn_factor": float(scaling.attentionFactor),
        },
        vectors: {
          [shortFactors]: Float32Array.from(scaling.shortFactors),
          [longFactors]: Float32Array.from(scaling.longFactors),
        },
      };
    case "yarn": {
      if (!scaling.truncate)
        throw new LineageError(
          "unsupported",
          "llama.cpp has no words for yarn whose range is not whole channels (truncate is false)",
        );
      const attention = scaling.attentionFactor / yarnMagnitude(scaling.factor);
      return {
        metadata: {
          "rope.scaling.type": text("yarn"),
          "rope.scaling.factor": float(scaling.factor),
          "rope.scaling.original_context_length": whole(scaling.originalContextLength),
          ...(Math.abs(attention - 1) > 1e-6 && { "rope.scaling.attn_factor": float(attention) }),
          ...(scaling.betaFast !== 32 && { "rope.scaling.yarn_beta_fast": float(scaling.betaFast) }),
          ...(scaling.betaSlow !== 1 && { "rope.scaling.yarn_beta_slow": float(scaling.betaSlow) }),
        },
        vectors: {},
      };
    }
    default:
      throw new LineageError(
        "unsupported",
        `llama.cpp has no words for the scaling of positions ${scaling!.kind}`,
      );
  }
}
