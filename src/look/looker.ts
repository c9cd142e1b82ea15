import { LineageError } from "../base/errors.js";
import { promptIds } from "../generation/index.js";
import type { Checkpoint } from "../checkpoints/index.js";
import type { System } from "../models/index.js";
import {
  type EncoderDecoder,
  EncoderWithHead,
  type Module,
  type WeightSet,
  scaledContext,
} from "../nn/index.js";
import { Lens, type LookBatch, type LookChoice, type Network, type SeenTensor } from "./lens.js";
import { tokenText } from "./token-text.js";

export interface LookOptions extends LookChoice {
  /** The second text of a pair, for encoders; what is written, for encoder-decoders. */
  readonly pair?: string | undefined;
  /** Tokens that are read, special ones included; what is beyond is left out. Default: as many as the model knows. */
  readonly maxTokens?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A token as the model reads it. */
export interface LookedToken {
  readonly id: number;
  /** Its text, spaces included; bytes that are no whole character as `<F0>`. */
  readonly text: string;
}

/** One layer's attention. Every row of `weights` sums to 1. */
export interface AttentionMap {
  /** From 0. */
  readonly layer: number;
  readonly heads: number;
  /** From every token (third axis) to every token (last), `[heads, queries, keys]`. */
  readonly weights: Float32Array;
}

/** One text as a stack of layers saw it. */
export interface LookedText {
  readonly tokens: readonly LookedToken[];
  /** The layers that were asked for, in that order. */
  readonly attention: readonly AttentionMap[];
  /** What every layer read, and last what the stack gave: `numLayers + 1` times `[tokens, hiddenSize]`. */
  readonly hiddenStates: readonly Float32Array[];
  /** Tokens that were left out at the end. */
  readonly truncated: number;
}

/** What a model let be seen of a text: the same numbers as transformers' `output_attentions` and `output_hidden_states`. */
export interface Looked extends LookedText {
  /** What it is, for a person: `LLaMA, a decoder`. */
  readonly model: string;
  /** Of an encoder-decoder: the text that was read, and every layer's attention from what is written to it. */
  readonly source?: LookedText;
  readonly cross?: readonly AttentionMap[];
}

/** What is looked into: a model of any system, with a head or without. */
export type Subject = Pick<Checkpoint<System, WeightSet, Module>, "system" | "weights" | "tokenizer"> & {
  readonly model: Network;
};

interface Reading {
  readonly ids: readonly number[];
  readonly typeIds?: readonly number[];
  readonly truncated: number;
  /** Of an encoder-decoder: the start token and what is written. */
  readonly written?: { readonly ids: readonly number[]; readonly truncated: number };
}

/** A text as a model of its kind reads it. Throws `argument` where it takes another number of texts. */
function read(
  { system, model, tokenizer }: Subject,
  text: string,
  { pair, maxTokens }: LookOptions,
): Reading {
  const { config } = model instanceof EncoderWithHead ? model.encoder : model;
  const maxLength = Math.min(maxTokens ?? Infinity, scaledContext(config));
  switch (system.kind) {
    case "decoder": {
      if (pair !== undefined)
        throw new LineageError("argument", "a decoder reads one text: join the two into one");
      const ids = promptIds(tokenizer, text);
      return { ids: ids.slice(0, maxLength), truncated: Math.max(0, ids.length - maxLength) };
    }
    case "encoder":
      return tokenizer.encodePair(text, pair, { maxLength });
    case "encoder-decoder": {
      if (pair === undefined)
        throw new LineageError(
          "argument",
          "an encoder-decoder is looked at with what it writes: give the pair",
        );
      const target = tokenizer.target.encodePair(pair, undefined, { maxLength });
      // The end is written last, and read no more.
      const written = [system.startId((model as EncoderDecoder).config), ...target.ids.slice(0, -1)];
      return {
        ...tokenizer.encodePair(text, undefined, { maxLength }),
        written: { ids: written, truncated: target.truncated },
      };
    }
  }
}

/** Looks into a model. The program of the last choice is kept for the next text. */
export class Looker implements Disposable {
  private kept: { readonly choice: string; readonly lens: Lens } | undefined;
  private last: Promise<unknown> = Promise.resolve();
  private disposed = false;

  /** @param owned what is disposed with it */
  constructor(
    private readonly subject: Subject,
    private readonly owned?: Disposable,
  ) {}

  /** One text at a time: whoever asks meanwhile waits. */
  look(text: string, options: LookOptions = {}): Promise<Looked> {
    const looked = this.last.then(() => this.lookAt(text, options));
    // Whoever comes next does not fail because the one before did.
    this.last = looked.catch(() => undefined);
    return looked;
  }

  private async lookAt(text: string, options: LookOptions): Promise<Looked> {
    const { subject } = this;
    const { layers, hiddenStates, signal } = options;
    const reading = read(subject, text, options);
    const { ids, typeIds, written } = reading;
    const lens = await this.lens({ layers, hiddenStates });
    const row = (values: readonly number[]) => ({ data: Int32Array.from(values), shape: [1, values.length] });
    const batch: LookBatch = {
      inputIds: row(ids),
      ...(typeIds && { tokenTypeIds: row(typeIds) }),
      ...(written && { decoderInputIds: row(written.ids) }),
    };
    const seen = await lens.look(batch, { signal });
    const maps = (tensors: readonly SeenTensor[]): AttentionMap[] =>
      tensors.map(({ data, shape }, place) => ({
        layer: layers?.[place] ?? place,
        heads: shape[1]!,
        weights: data,
      }));
    const looked = (
      sight: { readonly attention: readonly SeenTensor[]; readonly hidden: readonly SeenTensor[] },
      tokens: readonly number[],
      truncated: number,
    ): LookedText => ({
      tokens: tokens.map((id) => ({ id, text: tokenText(subject.tokenizer, id) })),
      attention: maps(sight.attention),
      hiddenStates: sight.hidden.map(({ data }) => data),
      truncated,
    });
    const { encoder, cross } = seen;
    const model = `${subject.system.title}, ${/^[aeiou]/.test(subject.system.kind) ? "an" : "a"} ${subject.system.kind}`;
    if (!encoder || !cross || !written) return { model, ...looked(seen, ids, reading.truncated) };
    return {
      model,
      ...looked(seen, written.ids, written.truncated),
      source: looked(encoder, ids, reading.truncated),
      cross: maps(cross),
    };
  }

  private async lens(choice: LookChoice): Promise<Lens> {
    if (this.disposed) throw new LineageError("disposed", "the model was disposed");
    const key = JSON.stringify([choice.layers ?? "all", choice.hiddenStates ?? true]);
    if (this.kept?.choice === key) return this.kept.lens;
    const { model, weights } = this.subject;
    const lens = await Lens.create(model, weights, choice);
    if (this.disposed) {
      lens.dispose();
      throw new LineageError("disposed", "the model was disposed while it was being looked at");
    }
    this.kept?.lens.dispose();
    this.kept = { choice: key, lens };
    return lens;
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.kept?.lens.dispose();
    this.owned?.[Symbol.dispose]();
    this.kept = undefined;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
