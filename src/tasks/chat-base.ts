import { readFile } from "node:fs/promises";
import { storageError } from "../base/files.js";
import {
  loadModel,
  saveAdapter,
  saveModel,
  widenDecoder,
  writeGenerationConfig,
} from "../checkpoints/index.js";
import { writeTokenizer } from "../formats/index.js";
import type { DecoderSystem } from "../models/index.js";
import { type Adapter, type CausalLm, type Weights, scaledContext } from "../nn/index.js";
import type { Runtime } from "../runtime/types.js";
import { type Tokenizer, withChatTemplate } from "../tokenizers/index.js";
import type { FinetuneChatOptions } from "./chat-options.js";
import { loadAdapted } from "./train-adapter.js";

/** A base that is to learn from conversations: an adapter beside it, or all of it. */
export interface ChatBase extends Disposable {
  readonly system: DecoderSystem;
  readonly model: CausalLm;
  readonly weights: Weights;
  readonly tokenizer: Tokenizer;
  readonly adapter: Adapter | undefined;
  /** Tokens of a conversation that the context has room for. */
  readonly room: number;
  /** Ids that end what the base writes, as its files say. */
  readonly stopIds: readonly number[] | undefined;
  /** Writes the adapter as peft does, or the whole model, with the tokenizer and what ends a turn. */
  readonly save: (out: string, kept: Weights, stopIds: readonly number[]) => Promise<void>;
}

/** Loads the base of a run, gives it a chat template where it has none, and puts a new adapter beside it where one is asked for. */
export async function openChatBase(
  runtime: Runtime,
  options: FinetuneChatOptions,
  tell: (sentence: string) => void,
): Promise<ChatBase> {
  const { model: place, adapter: kind, template: file } = options;
  const template = file === undefined ? undefined : await readTemplate(file);
  if (kind === "none") return openWhole(runtime, options, template, tell);
  const base = await loadAdapted(runtime, place, { ...options, adapter: kind });
  try {
    const chosen = withChatTemplate(base.tokenizer, { mayAdd: false, template });
    if (chosen.statement !== undefined) tell(chosen.statement);
    const { tokenizer } = chosen;
    return {
      ...base,
      stopIds: base.stopIds,
      tokenizer,
      save: async (out, weights, stopIds) => {
        await writeTokenizer(tokenizer, out);
        await writeGenerationConfig(out, tokenizer, { stopIds });
        await saveAdapter(out, { model: base.model, adapter: base.adapter, weights, base: place });
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

async function openWhole(
  runtime: Runtime,
  { model: place, seed }: FinetuneChatOptions,
  template: string | undefined,
  tell: (sentence: string) => void,
): Promise<ChatBase> {
  const loaded = await loadModel(runtime, place, { kind: "decoder" });
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

async function readTemplate(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw storageError("read", file, error);
  }
}
