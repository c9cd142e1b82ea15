import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson } from "../base/files.js";
import { batchesByLength, padRows, paddingOf } from "../data/index.js";
import {
  type Tensor,
  cast,
  concat,
  div,
  max,
  maximum,
  sqrt,
  square,
  sum,
  unsqueeze,
  where,
} from "../graph/index.js";
import type { Encoding } from "../tokenizers/index.js";
import { EncoderProgram } from "../tasks/index.js";
import { type LoadedEncoder, loadEncoder } from "../checkpoints/index.js";
import { firstToken } from "../nn/index.js";
import { createRuntime } from "../runtime/index.js";
import type { Runtime } from "../runtime/types.js";

/** How the states of a text's tokens become one vector. */
export const poolings = ["mean", "cls", "max"] as const;
export type Pooling = (typeof poolings)[number];

export interface EmbedderOptions {
  /** Default: as the folder's sentence-transformers modules say, else the mean. */
  readonly pooling?: Pooling;
  /** Whether vectors have length 1. Default: as the modules say; true where there are none. */
  readonly normalize?: boolean;
  /** Tokens that are read of a text, special ones included. Default: as the folder says, else the model's context. */
  readonly maxLength?: number;
  readonly runtime?: Runtime;
}

export interface EmbedOptions {
  /** Texts of one run. Default 32. */
  readonly batchSize?: number;
  /** Called for every text that was cut, with its place and how many tokens were left out. */
  readonly onTruncated?: (place: number, tokens: number) => void;
  /** Called after every run with the number of texts done. */
  readonly onProgress?: (done: number) => void;
  readonly signal?: AbortSignal;
}

interface Recipe {
  readonly poolings: readonly Pooling[];
  readonly normalize: boolean;
  readonly maxLength: number;
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
    private readonly loaded: LoadedEncoder,
    private readonly program: EncoderProgram<"vector">,
    private readonly recipe: Recipe,
    /** Names the model, its files and how it pools: vectors of another identity cannot be compared. */
    readonly identity: string,
  ) {}

  /** Throws where the folder is no encoder's, or has modules that are not known here. */
  static async load(folder: string, options: EmbedderOptions = {}): Promise<Embedder> {
    const loaded = await loadEncoder(options.runtime ?? createRuntime(), folder);
    const own = await readModules(folder);
    const { contextLength } = loaded.encoder.config;
    const maxLength = options.maxLength ?? Math.min(own.maxLength ?? contextLength, contextLength);
    if (!(Number.isInteger(maxLength) && maxLength >= 3 && maxLength <= contextLength)) {
      throw new LineageError(
        "length",
        `texts can be cut to between 3 and ${contextLength} tokens, which the model knows; not to ${maxLength}`,
      );
    }
    const recipe: Recipe = {
      poolings: options.pooling ? [options.pooling] : own.poolings,
      normalize: options.normalize ?? own.normalize,
      maxLength,
    };
    const program = await EncoderProgram.create(loaded.encoder, loaded.weights, (inputs) => {
      const hidden = loaded.encoder.encode(inputs);
      const pooled = recipe.poolings.map((pooling) => pool(hidden, inputs.attentionMask!, pooling));
      const vector = pooled.length === 1 ? pooled[0]! : concat(pooled, 1);
      if (!recipe.normalize) return { vector };
      const length = sqrt(sum(square(vector), { axes: 1, keepDims: true }));
      return { vector: div(vector, maximum(length, 1e-12)) };
    });
    return new Embedder(loaded, program, recipe, await identityOf(folder, recipe));
  }

  /** Numbers of one vector. */
  get size(): number {
    return this.loaded.encoder.config.hiddenSize * this.recipe.poolings.length;
  }

  /** Tokens that are read of a text, special ones included. */
  get maxLength(): number {
    return this.recipe.maxLength;
  }

  /** A text's tokens as the model reads them, cut to `maxLength`. */
  encode(text: string): Encoding {
    return this.loaded.tokenizer.encodePair(text.trim(), undefined, { maxLength: this.recipe.maxLength });
  }

  /** One vector for each text, in the order given. Texts of like length run together. */
  async embed(texts: readonly string[], options: EmbedOptions = {}): Promise<Float32Array[]> {
    const { batchSize = 32, onTruncated, onProgress, signal } = options;
    const rows = texts.map((text, place) => {
      const encoding = this.encode(text);
      if (encoding.truncated > 0) onTruncated?.(place, encoding.truncated);
      return encoding;
    });
    const padding = paddingOf(this.loaded.tokenizer, this.loaded.encoder.config.padTokenId);
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

/** Sizes and dates of a folder's weights stand for their content, which would take long to read. */
async function identityOf(folder: string, recipe: Recipe): Promise<string> {
  const names = (await readdir(folder)).filter((name) => /\.(safetensors|json)$/.test(name)).sort();
  const files = await Promise.all(
    names.map(async (name) => {
      const { size, mtimeMs } = await stat(path.join(folder, name));
      return [name, size, mtimeMs];
    }),
  );
  return createHash("sha256")
    .update(JSON.stringify([files, recipe]))
    .digest("hex");
}

/** States `[batch, sequence, hiddenSize]` and mask `[batch, sequence]` -> `[batch, hiddenSize]`, padding left out. */
function pool(hidden: Tensor, mask: Tensor, pooling: Pooling): Tensor {
  const real = unsqueeze(mask, 2);
  switch (pooling) {
    case "cls":
      return firstToken(hidden);
    case "max":
      return max(where(real, hidden, -1e9), { axes: 1 });
    case "mean": {
      const weight = cast(real, "float32");
      return div(sum(hidden.mul(weight), { axes: 1 }), maximum(sum(weight, { axes: 1 }), 1e-9));
    }
  }
}

const moduleList = z.array(z.looseObject({ path: z.string(), type: z.string() }));
const poolingConfig = z.looseObject({
  pooling_mode_cls_token: z.boolean().default(false),
  pooling_mode_mean_tokens: z.boolean().default(false),
  pooling_mode_max_tokens: z.boolean().default(false),
});
const lengthConfig = z.looseObject({ max_seq_length: z.int().positive().nullish() });

/** What sentence-transformers' `modules.json` and the files it names say. Throws `unsupported` for a module that is not known here. */
async function readModules(
  folder: string,
): Promise<{ poolings: readonly Pooling[]; normalize: boolean; maxLength?: number }> {
  const parse = async <T>(schema: z.ZodType<T>, file: string): Promise<T> => {
    const parsed = schema.safeParse(await readJson(file));
    if (!parsed.success) throw new FormatError(file, z.prettifyError(parsed.error));
    return parsed.data;
  };
  const lengthFile = path.join(folder, "sentence_bert_config.json");
  const maxLength = existsSync(lengthFile)
    ? ((await parse(lengthConfig, lengthFile)).max_seq_length ?? undefined)
    : undefined;
  const file = path.join(folder, "modules.json");
  if (!existsSync(file)) return { poolings: ["mean"], normalize: true, maxLength };
  const found = { poolings: ["mean"] as readonly Pooling[], normalize: false, maxLength };
  for (const { path: place, type } of await parse(moduleList, file)) {
    const kind = type.split(".").at(-1);
    if (kind === "Normalize") found.normalize = true;
    else if (kind === "Pooling") {
      const config = path.join(folder, path.basename(place), "config.json");
      found.poolings = poolingsOf(config, await parse(poolingConfig, config));
    } else if (kind !== "Transformer") {
      throw new LineageError(
        "unsupported",
        `${file} asks for a module of the type ${type}; Transformer, Pooling and Normalize are known`,
      );
    }
  }
  return found;
}

function poolingsOf(file: string, config: z.infer<typeof poolingConfig>): Pooling[] {
  const known: Readonly<Record<string, Pooling>> = {
    pooling_mode_cls_token: "cls",
    pooling_mode_max_tokens: "max",
    pooling_mode_mean_tokens: "mean",
  };
  const asked = Object.entries(config).filter(
    ([name, on]) => name.startsWith("pooling_mode_") && on === true,
  );
  const other = asked.find(([name]) => known[name] === undefined);
  if (other || asked.length === 0) {
    throw new LineageError(
      "unsupported",
      `${file} asks for ${other ? other[0] : "no pooling"}; the mean, the first token and the maximum are known`,
    );
  }
  // Several stand one after the other in this order, as sentence-transformers has them.
  return Object.keys(known).flatMap((name) =>
    asked.some(([entry]) => entry === name) ? [known[name]!] : [],
  );
}

/** Cosine of the angle between two vectors; 0 where one is zero. */
export function cosineSimilarity(a: Float32Array, b: Float32Array): number {
  let [product, lengthA, lengthB] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    product += a[i]! * b[i]!;
    lengthA += a[i]! * a[i]!;
    lengthB += b[i]! * b[i]!;
  }
  return lengthA === 0 || lengthB === 0 ? 0 : product / Math.sqrt(lengthA * lengthB);
}
