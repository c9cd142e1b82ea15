import { LineageError } from "../base/errors.js";
import {
  type ConfigJson,
  type ConfigTable,
  type HeadDefinition,
  type HeadName,
  decoderHeads,
  headClasses,
  headNames,
} from "../nn/index.js";
import { albert } from "./albert.js";
import { bart } from "./bart.js";
import { bert } from "./bert.js";
import { debertaV3 } from "./deberta-v2.js";
import { deberta } from "./deberta.js";
import { electra } from "./electra.js";
import { gpt1 } from "./gpt1.js";
import { gpt2 } from "./gpt2.js";
import { gpt3 } from "./gpt3.js";
import { llama } from "./llama.js";
import { mass } from "./mass.js";
import { mbart } from "./mbart.js";
import { mistral } from "./mistral.js";
import { mt5 } from "./mt5.js";
import { palm } from "./palm.js";
import { qwen2 } from "./qwen2.js";
import { roberta } from "./roberta.js";
import type {
  DecoderSystem,
  EncoderDecoderSystem,
  EncoderSystem,
  System,
  SystemConfig,
  SystemKind,
} from "./system.js";
import { t5 } from "./t5.js";
import { transformer } from "./transformer.js";
import { unilm } from "./unilm.js";
import { xlm } from "./xlm.js";
import { xlnet } from "./xlnet.js";

/** The systems that there are, by name. */
export const systems = {
  gpt1,
  gpt2,
  gpt3,
  llama,
  mistral,
  qwen2,
  palm,
  albert,
  bert,
  deberta,
  "deberta-v3": debertaV3,
  electra,
  roberta,
  unilm,
  xlm,
  xlnet,
  bart,
  mass,
  mbart,
  mt5,
  t5,
  transformer,
} as const;

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

/** The system of a `config.json` among candidates: one that knows its files by more than their type comes before others. */
function systemAmong<S extends System>(json: unknown, candidates: readonly S[], kind: string): S {
  const entries: ConfigJson = typeof json === "object" && json !== null ? (json as ConfigJson) : {};
  const type = entries["model_type"];
  const ofType = candidates.filter((one) => one.type === type);
  const found = ofType.find((one) => one.holds?.(entries)) ?? ofType.find((one) => one.holds === undefined);
  if (found) return found;
  const other = all.find((one) => one.type === type);
  const said = other ? ` (${other.title}, ${kindWords[other.kind]})` : "";
  throw new LineageError(
    "config",
    `${type === undefined ? "there is no model_type" : `model_type is ${JSON.stringify(type)}${said}`}, but the ${kind} here are ${[...new Set(candidates.map((one) => one.type))].join(", ")}`,
  );
}

/** How a person calls a model of each kind. */
export const kindWords: Readonly<Record<SystemKind, string>> = {
  decoder: "a decoder",
  encoder: "an encoder",
  "encoder-decoder": "an encoder-decoder",
};

/**
 * The system that a `config.json` is of. Throws `config` where there is none such.
 * @param own systems besides the library's, which come first
 */
export const systemOf = (json: unknown, own: readonly System[] = []): System =>
  systemAmong(json, [...own, ...all], "systems");

/** The decoder that a `config.json` is of. Throws `config` where it is none. */
export const decoderOf = (json: unknown, own: readonly System[] = []): DecoderSystem =>
  systemAmong(json, systemsOfKind("decoder", own), "decoders");

/** The decoder that a `config.json` is of, as a language model. Throws `config` where it is none, or has a head of a task. */
export function languageModelOf(json: unknown, own: readonly System[] = []): DecoderSystem {
  const system = decoderOf(json, own);
  const head = headOfConfig(system, json);
  if (head !== undefined)
    throw new LineageError(
      "config",
      `the model is a ${classOfHead(system, head)}, which was fine-tuned and writes no text: use it with predict, or take the language model that it began with`,
    );
  return system;
}

/** The encoder that a `config.json` is of. Throws `config` where it is none. */
export const encoderOf = (json: unknown, own: readonly System[] = []): EncoderSystem =>
  systemAmong(json, systemsOfKind("encoder", own), "encoders");

/** The encoder or decoder that a `config.json` is of. Throws `config` where it is neither. */
export const headSystemOf = (json: unknown, own: readonly System[] = []): HeadSystem =>
  systemAmong(
    json,
    [...systemsOfKind("encoder", own), ...systemsOfKind("decoder", own)],
    "encoders and decoders",
  );

/** The encoder-decoder that a `config.json` is of. Throws `config` where it is none. */
export const encoderDecoderOf = (json: unknown, own: readonly System[] = []): EncoderDecoderSystem =>
  systemAmong(json, systemsOfKind("encoder-decoder", own), "encoder-decoders");

/** A system whose networks take a head of a task. */
export type HeadSystem = EncoderSystem | DecoderSystem;

/** A system's heads of tasks. Throws `unsupported` for one that it does not have: a decoder fills no masks. */
export function headOf(system: HeadSystem, head: HeadName): HeadDefinition<SystemConfig> {
  if (system.kind === "encoder") return system.heads[head];
  if (head === "fill-mask")
    throw new LineageError("unsupported", `${system.title} is a decoder, which fills no masks`);
  return decoderHeads((config: SystemConfig) => system.create(config), system.headNames)[head];
}

/** What transformers' classes of a family begin with: `Llama` in `LlamaForCausalLM`. */
const familyOf = ({ kind, className }: HeadSystem): string =>
  kind === "encoder" ? className : className.replace(/(ForCausalLM|LMHeadModel)$/, "");

/** Transformers' class of a network with a head. */
const classOfHead = (system: HeadSystem, head: HeadName): string =>
  familyOf(system) + (headOf(system, head).className ?? headClasses[head]);

/** The head that a `config.json` names in its `architectures`. */
export function headOfConfig(system: HeadSystem, json: unknown): HeadName | undefined {
  const { architectures } = json as ConfigJson;
  const names: readonly unknown[] = Array.isArray(architectures) ? architectures : [];
  return headNames
    .filter((head) => system.kind === "encoder" || head !== "fill-mask")
    .find((head) =>
      names.some(
        (name) => name === classOfHead(system, head) || name === familyOf(system) + headClasses[head],
      ),
    );
}

/**
 * The `config.json` that describes a model to Hugging Face transformers.
 * @param head the head of a task, and the names of its classes
 */
export function configJson(
  system: System,
  config: SystemConfig,
  {
    head,
    labels,
  }: { readonly head?: HeadName | undefined; readonly labels?: readonly string[] | undefined } = {},
): Record<string, unknown> {
  const table: ConfigTable<SystemConfig> = system.config;
  return {
    architectures: [
      head && system.kind !== "encoder-decoder"
        ? classOfHead(system, head)
        : system.kind === "encoder"
          ? `${system.className}Model`
          : system.className,
    ],
    ...table.write(config),
    ...(labels && {
      id2label: Object.fromEntries(labels.map((label, id) => [id, label])),
      label2id: Object.fromEntries(labels.map((label, id) => [label, id])),
    }),
  };
}
