import { readFile } from "node:fs/promises";
import { LineageError } from "../base/errors.js";
import { storageError } from "../base/files.js";
import {
  type DecoderCheckpoint,
  type EncoderDecoderCheckpoint,
  kindIn,
  loadModel,
  saveAdapter,
  saveModel,
  widenDecoder,
  writeGenerationConfig,
} from "../checkpoints/index.js";
import { writeTokenizer } from "../formats/index.js";
import type { DecoderSystem, EncoderDecoderSystem } from "../models/index.js";
import {
  type Adapter,
  type CausalLm,
  type EncoderDecoder,
  type Weights,
  scaledContext,
} from "../nn/index.js";
import type { Runtime } from "../runtime/types.js";
import { type Tokenizer, withChatTemplate } from "../tokenizers/index.js";
import type { FinetuneChatOptions } from "./chat-options.js";
import { loadAdapted, loadAdaptedPairs } from "./train-adapter.js";

/** A base that is to learn from conversations: an adapter beside it, or all of it. */
interface BaseOf<S, M> extends Disposable {
  readonly system: S;
  readonly model: M;
  readonly weights: Weights;
  readonly tokenizer: Tokenizer;
  readonly adapter: Adapter | undefined;
  /** Tokens of a conversation that the context has room for; of an encoder-decoder those of what is read, and of an answer. */
  readonly room: number;
  /** Ids that end what the base writes, as its files say. */
  readonly stopIds: readonly number[] | undefined;
  /** Writes the adapter as peft does, or the whole model, with the tokenizer and what ends a turn. */
  readonly save: (out: string, kept: Weights, stopIds: readonly number[]) => Promise<void>;
}
/** One that continues conversations. */
export interface DecoderBase extends BaseOf<DecoderSystem, CausalLm> {
  readonly kind: "decoder";
}
/** One that reads conversations and writes answers. */
export interface ReaderBase extends BaseOf<EncoderDecoderSystem, EncoderDecoder> {
  readonly kind: "encoder-decoder";
}
export type ChatBase = DecoderBase | ReaderBase;

type Tell = (sentence: string) => void;

/** Loads the base of a run, gives it a chat template where it has none, and puts a new adapter beside it where one is asked for. */
export async function openChatBase(
  runtime: Runtime,
  options: FinetuneChatOptions,
  tell: Tell,
): Promise<ChatBase> {
  const { model: place, adapter, template: file } = options;
  const kind = await kindIn(place);
  if (kind === "encoder")
    throw new LineageError(
      "argument",
      `${place} is an encoder, which writes no answers; conversations are for decoders and encoder-decoders`,
    );
  const template = file === undefined ? undefined : await readTemplate(file);
  if (kind === "encoder-decoder") return openReader(runtime, options, template, tell);
  return adapter === "none"
    ? openWhole(runtime, options, template, tell)
    : openAdapted(runtime, { ...options, adapter }, template, tell);
}

/** A decoder with an adapter beside it. */
async function openAdapted(
  runtime: Runtime,
  options: FinetuneChatOptions & { readonly adapter: Exclude<FinetuneChatOptions["adapter"], "none"> },
  template: string | undefined,
  tell: Tell,
): Promise<DecoderBase> {
  const base = await loadAdapted(runtime, options.model, options);
  try {
    const chosen = withChatTemplate(base.tokenizer, { mayAdd: false, template });
    if (chosen.statement !== undefined) tell(chosen.statement);
    const { tokenizer } = chosen;
    return {
      ...base,
      kind: "decoder",
      stopIds: base.stopIds,
      tokenizer,
      save: async (out, weights, stopIds) => {
        await writeTokenizer(tokenizer, out);
        await writeGenerationConfig(out, tokenizer, { stopIds });
        await saveAdapter(out, { model: base.model, adapter: base.adapter, weights, base: options.model });
      },
      [Symbol.dispose]: () => {
        base[Symbol.dispose]();
      },
    };
  } catch (error) {
    base[Symbol.dispose]();
    throw error;
  }
}

/** A decoder of which all weights learn. */
async function openWhole(
  runtime: Runtime,
  { model: place, seed }: FinetuneChatOptions,
  template: string | undefined,
  tell: Tell,
): Promise<DecoderBase> {
  const loaded: DecoderCheckpoint = await loadModel(runtime, place, { kind: "decoder" });
  const { system, stopIds } = loaded;
  let { model, weights } = loaded;
  try {
    const { tokenizer, statement } = withChatTemplate(loaded.tokenizer, { mayAdd: true, template });
    if (statement !== undefined) tell(statement);
    if (tokenizer.vocabSize > model.config.vocabSize) {
      tell(
        `the embeddings grow from ${model.config.vocabSize} to ${tokenizer.vocabSize} tokens; the new ones begin near the mean of the others`,
      );
      const wider = await widenDecoder(loaded, { tokenizer, seed });
      weights.dispose();
      ({ model, weights } = wider);
    }
    return {
      kind: "decoder",
      system,
      model,
      weights,
      tokenizer,
      stopIds,
      adapter: undefined,
      room: scaledContext(model.config),
      save: (out, kept, ends) => saveModel(out, { system, model, weights: kept, tokenizer, stopIds: ends }),
      [Symbol.dispose]: () => {
        weights.dispose();
      },
    };
  } catch (error) {
    weights.dispose();
    throw error;
  }
}

/** An encoder-decoder, whole or with an adapter of matrices beside it. */
async function openReader(
  runtime: Runtime,
  options: FinetuneChatOptions,
  template: string | undefined,
  tell: Tell,
): Promise<ReaderBase> {
  const { model: place, adapter: kind } = options;
  if (kind === "prompt" || kind === "prefix")
    throw new LineageError(
      "unsupported",
      `a ${kind} adapter stands before what a decoder continues; ${place} is an encoder-decoder, which takes --adapter lora, qlora or none`,
    );
  const loaded =
    kind === "none"
      ? whole(await loadModel(runtime, place, { kind: "encoder-decoder" }))
      : await loadAdaptedPairs(runtime, { ...options, adapter: kind });
  const { system, model, stopIds, adapter } = loaded;
  try {
    const { tokenizer, statement } = withChatTemplate(loaded.tokenizer, {
      mayAdd: false,
      template,
      reads: true,
    });
    if (statement !== undefined) tell(statement);
    return {
      kind: "encoder-decoder",
      system,
      model,
      weights: loaded.weights,
      tokenizer,
      stopIds,
      adapter,
      room: scaledContext(model.config),
      save: async (out, weights, ends) => {
        if (!adapter) return saveModel(out, { ...loaded, weights, tokenizer, stopIds: ends });
        await writeTokenizer(tokenizer, out);
        await writeGenerationConfig(out, tokenizer, { stopIds: ends, generation: loaded.generation });
        await saveAdapter(out, { model, adapter, weights, base: place });
      },
      [Symbol.dispose]: () => {
        loaded[Symbol.dispose]();
      },
    };
  } catch (error) {
    loaded[Symbol.dispose]();
    throw error;
  }
}

const whole = (
  loaded: EncoderDecoderCheckpoint,
): EncoderDecoderCheckpoint & Disposable & { readonly adapter?: undefined } => ({
  ...loaded,
  [Symbol.dispose]: () => {
    loaded.weights.dispose();
  },
});

async function readTemplate(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw storageError("read", file, error);
  }
}
