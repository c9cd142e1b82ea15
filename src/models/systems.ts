import { LineageError } from "../base/errors.js";
import type { ConfigJson } from "../nn/index.js";
import { gpt2 } from "./gpt2.js";
import { llama } from "./llama.js";
import { mistral } from "./mistral.js";
import type { DecoderSystem, System, SystemConfig, SystemKind } from "./system.js";

/** The systems that there are, by name. */
export const systems = { gpt2, llama, mistral } as const;

/** Names of the systems of a kind. */
export type SystemName<K extends SystemKind = SystemKind> = {
  [N in keyof typeof systems]: (typeof systems)[N]["kind"] extends K ? N : never;
}[keyof typeof systems];

const all: readonly System[] = Object.values(systems);

/** The systems of a kind, those of the caller's own first. */
export const systemsOfKind = <K extends SystemKind>(
  kind: K,
  own: readonly System[] = [],
): readonly Extract<System, { kind: K }>[] =>
  [...own, ...all].filter((system): system is Extract<System, { kind: K }> => system.kind === kind);

/**
 * The system that a `config.json` is of. Throws `config` where there is none such.
 * @param own systems besides the library's, which come first
 */
export function systemOf(json: unknown, own: readonly System[] = []): System {
  const type = typeof json === "object" && json !== null ? (json as ConfigJson)["model_type"] : undefined;
  const candidates = [...own, ...all];
  const found = candidates.find((one) => one.type === type && (one.holds?.(json as ConfigJson) ?? true));
  if (!found)
    throw new LineageError(
      "config",
      `model_type is ${JSON.stringify(type)}, but the systems here are ${[...new Set(candidates.map((one) => one.type))].join(", ")}`,
    );
  return found;
}

/** The decoder that a `config.json` is of. Throws `config` where it is none. */
export function decoderOf(json: unknown, own: readonly System[] = []): DecoderSystem {
  const type = typeof json === "object" && json !== null ? (json as ConfigJson)["model_type"] : undefined;
  const decoders = systemsOfKind("decoder", own);
  const found = decoders.find((one) => one.type === type && (one.holds?.(json as ConfigJson) ?? true));
  if (!found)
    throw new LineageError(
      "config",
      `model_type is ${JSON.stringify(type)}, but the decoders here are ${decoders.map((one) => one.type).join(", ")}`,
    );
  return found;
}

/** The `config.json` that describes a decoder to Hugging Face transformers. */
export const decoderConfigJson = (
  { className, config }: DecoderSystem,
  model: { readonly config: SystemConfig },
): Record<string, unknown> => ({ architectures: [className], ...config.write(model.config) });
