import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import { type Warn, emitWarning } from "../base/warnings.js";
import { batchesByLength, padRows, paddingOf } from "../data/index.js";
import type { Encoding } from "../tokenizers/index.js";
import { EncoderProgram } from "../tasks/index.js";
import { type EncoderCheckpoint, loadEncoderForInference } from "../checkpoints/index.js";
import type { ModelWeights } from "../quantization/index.js";
import { createRuntime } from "../runtime/index.js";
import type { Runtime } from "../runtime/types.js";
import { type SentenceModules, type VectorModule, readModules } from "./modules.js";
import type { Pooling } from "./pooling.js";
import { type VectorRecipe, sentenceVector, vectorSize } from "./vector.js";

export interface EmbedderOptions {
  /** Default: as the folder's sentence-transformers modules say, else the mean. */
  readonly pooling?: Pooling;
  /** Whether vectors have length 1. Default: as the modules say; true where there are none. */
  readonly normalize?: boolean;
  /** Tokens that are read of a text, special ones included. Default: as the folder says, else the model's context. */
  readonly maxLength?: number;
  readonly runtime?: Runtime;
  /** Takes sentences about what the files say and lineage does not know. Default: Node's warnings. */
  readonly warn?: Warn;
}

/** What a text is for: a model may have another prompt for what is asked than for what is found. */
export type TextUse = "query" | "document";

export interface EmbedOptions {
  /** Default: the model's default prompt, where it has one. */
  readonly use?: TextUse | undefined;
  /** Texts of one run. Default 32. */
  readonly batchSize?: number;
  /** Called for every text that was cut, with its place and how many tokens were left out. */
  readonly onTruncated?: (place: number, tokens: number) => void;
  /** Called after every run with the number of texts done. */
  readonly onProgress?: (done: number) => void;
  readonly signal?: AbortSignal;
}

interface Recipe extends VectorRecipe {
  readonly maxLength: number;
  readonly lowercase: boolean;
}

/**
 * Vectors of texts by an encoder, as sentence-transformers computes them:
 *
 *     const embedder = await Embedder.load("all-MiniLM-L6-v2");
 *     const [a, b] = await embedder.embed(["A cat sits.", "There is a cat."]);
 *     console.log(cosineSimilarity(a, b));
 */
export class Embedder implements Disposable {
  private constructor(
    /** The network with its weights and its tokenizer. */
    readonly loaded: EncoderCheckpoint<ModelWeights>,
    private readonly program: EncoderProgram<"vector">,
    private readonly recipe: Recipe,
    private readonly prompts: Pick<SentenceModules, "prompts" | "defaultPrompt">,
    /** Numbers of one vector. */
    readonly size: number,
    /** Names the model, its files and how it pools: vectors of another identity cannot be compared. */
    readonly identity: string,
  ) {}

  /** Throws where the folder is no encoder's, or has modules that are not known here. */
  static async load(folder: string, options: EmbedderOptions = {}): Promise<Embedder> {
    const warn = options.warn ?? emitWarning;
    const own = await readModules(folder, warn);
    const loaded = await loadEncoderForInference(options.runtime ?? createRuntime(), own.encoder, { warn });
    try {
      const { contextLength, hiddenSize } = loaded.model.config;
      const maxLength = options.maxLength ?? textLimit(own, loaded);
      if (!(Number.isInteger(maxLength) && maxLength >= 3 && maxLength <= contextLength)) {
        throw new LineageError(
          "length",
          `maxLength must be from 3 to ${contextLength}, the tokens that the model reads, not ${maxLength}`,
        );
      }
      const recipe: Recipe = {
        poolings: options.pooling ? [options.pooling] : own.poolings,
        modules: normalized(own.modules, options.normalize),
        maxLength,
        lowercase: own.lowercase,
      };
      const size = vectorSize(folder, recipe, own.width ?? hiddenSize, hiddenSize);
      const program = await EncoderProgram.create(loaded.model, loaded.weights, (inputs) => {
        const hidden = loaded.model.encode(inputs);
        return { vector: sentenceVector(hidden, inputs.attentionMask!, recipe) };
      });
      const identity = await identityOf(folder, own.encoder, {
        ...recipe,
        modules: recipe.modules.map(described),
      });
      return new Embedder(loaded, program, recipe, own, size, identity);
    } catch (error) {
      loaded.weights.dispose();
      throw error;
    }
  }

  /** Tokens that are read of a text, special ones included. */
  get maxLength(): number {
    return this.recipe.maxLength;
  }

  /** A text's tokens as the model reads them, its prompt before them, cut to `maxLength`. */
  encode(text: string, use?: TextUse): Encoding {
    const { maxLength, lowercase } = this.recipe;
    const prompted = (this.promptOf(use) + text).trim();
    const read = lowercase ? prompted.toLowerCase() : prompted;
    return this.loaded.tokenizer.encodePair(read, undefined, { maxLength });
  }

  private promptOf(use: TextUse | undefined): string {
    const { prompts, defaultPrompt = "" } = this.prompts;
    const names = use === "query" ? ["query"] : use === "document" ? ["document", "passage", "corpus"] : [];
    return names.map((name) => prompts.get(name)).find((prompt) => prompt !== undefined) ?? defaultPrompt;
  }

  /** One vector for each text, in the order given. Texts of like length run together. */
  async embed(texts: readonly string[], options: EmbedOptions = {}): Promise<Float32Array[]> {
    const { batchSize = 32, use, onTruncated, onProgress, signal } = options;
    const rows = texts.map((text, place) => {
      const encoding = this.encode(text, use);
      if (encoding.truncated > 0) onTruncated?.(place, encoding.truncated);
      return encoding;
    });
    const padding = paddingOf(this.loaded.tokenizer, this.loaded.model.config.padTokenId);
    const vectors = Array<Float32Array>(texts.length);
    let done = 0;
    for (const places of batchesByLength(rows, { batchSize, lengthOf: ({ ids }) => ids.length })) {
      const inputs = padRows(
        places.map((place) => rows[place]!),
        padding,
      );
      const { data } = (await this.program.run(inputs, { signal })).vector;
      places.forEach((place, row) => {
        vectors[place] = data.slice(row * this.size, (row + 1) * this.size);
      });
      done += places.length;
      onProgress?.(done);
    }
    return vectors;
  }

  dispose(): void {
    this.program.dispose();
    this.loaded.weights.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Tokens of a text, special ones included: what the modules say, else the tokenizer's files, and no more than the model knows. */
export function textLimit(
  { maxLength }: Pick<SentenceModules, "maxLength">,
  { tokenizer, model }: Pick<EncoderCheckpoint, "tokenizer" | "model">,
): number {
  const said = tokenizer.config["model_max_length"];
  const limit = typeof said === "number" && said >= 1 ? Math.floor(said) : Infinity;
  return Math.min(maxLength ?? limit, model.config.contextLength);
}

/** The modules with a norm at the end, or without any, where that is asked for. */
function normalized(
  modules: readonly VectorModule[],
  normalize: boolean | undefined,
): readonly VectorModule[] {
  if (normalize === undefined) return modules;
  const others = modules.filter(({ kind }) => kind !== "normalize");
  return normalize ? [...others, { kind: "normalize" }] : others;
}

/** A module without its numbers, which the date of its file stands for. */
const described = (module: VectorModule) =>
  module.kind === "dense" ? { ...module, weight: undefined, bias: undefined } : module;

/** Sizes and dates of a folder's weights stand for their content, which would take long to read. */
async function identityOf(folder: string, encoder: string, recipe: object): Promise<string> {
  const places = [folder, ...(encoder === folder ? [] : [encoder]), ...(await foldersIn(folder))];
  const files = await Promise.all(
    [...new Set(places)].map(async (place) => {
      const names = (await readdir(place)).filter((name) => /\.(safetensors|json)$/.test(name)).sort();
      return Promise.all(
        names.map(async (name) => {
          const { size, mtimeMs } = await stat(path.join(place, name));
          return [name, size, mtimeMs];
        }),
      );
    }),
  );
  return createHash("sha256")
    .update(JSON.stringify([files, recipe]))
    .digest("hex");
}

/** Folders of modules: `1_Pooling`, `2_Dense`. */
const foldersIn = async (folder: string): Promise<string[]> =>
  (await readdir(folder, { withFileTypes: true }))
    .filter((entry) => entry.isDirectory() && /^\d+_/.test(entry.name))
    .map(({ name }) => path.join(folder, name))
    .sort();
