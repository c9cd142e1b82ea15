import { existsSync, statSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson, storageError, writeAtomically, writeJson } from "../base/files.js";
import type { Runtime } from "../runtime/types.js";
import { type Corpus, type CorpusSize, type Encode, type Piece, piecesOf, unhurried } from "./corpus.js";

/** Token ids one after another; those of a file are read from disk when they are first used. */
export type Tokens = Int32Array | Uint32Array | Uint16Array;

/** A corpus as token ids, in memory or in files. */
export interface TokenizedCorpus extends Disposable {
  readonly training: Tokens;
  readonly validation: Tokens;
}

const summary = z.object({
  vocabSize: z.int().positive(),
  /** Number of ids of each part. */
  training: z.int().nonnegative(),
  validation: z.int().nonnegative(),
});

/** Bytes of one id: nanoGPT's 16-bit files where the vocabulary allows it. */
const bytesOfId = (vocabSize: number): 2 | 4 => (vocabSize <= 2 ** 16 ? 2 : 4);

const fileOf = (folder: string, part: "training" | "validation"): string => path.join(folder, `${part}.bin`);
const summaryFile = (folder: string): string => path.join(folder, "tokens.json");

export interface TokenizeOptions {
  readonly encode: Encode;
  readonly vocabSize: number;
  /** Id that closes each document; undefined where the tokenizer has none. */
  readonly endOfText: number | undefined;
  /** Share of the corpus that is held out: its end. */
  readonly heldOut: number;
  readonly signal?: AbortSignal;
  /** Told how many characters have become tokens. */
  readonly onProgress?: (characters: number) => void;
}

/**
 * Writes a corpus as token ids into `training.bin` and `validation.bin`, little-endian and nothing else, piece by piece,
 * so that it may be larger than memory. `tokens.json` comes last: without it the folder holds nothing.
 */
export async function tokenizeCorpus(
  folder: string,
  corpus: Corpus,
  size: CorpusSize,
  options: TokenizeOptions,
): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw storageError("make the folder", folder, error);
  }
  const pieces = unhurried(piecesOf(corpus, size, options.heldOut, options.encode), options.signal);
  let characters = 0;
  let next = await pieces.next();
  const counts = { training: 0, validation: 0 };
  for (const part of ["training", "validation"] as const) {
    await writeAtomically(
      fileOf(folder, part),
      (async function* () {
        while (!next.done && next.value.heldOut === (part === "validation")) {
          const bytes = encodePiece(next.value, options);
          counts[part] += bytes.byteLength / bytesOfId(options.vocabSize);
          characters += next.value.text.length;
          options.onProgress?.(characters);
          yield bytes;
          next = await pieces.next();
        }
      })(),
    );
  }
  await writeJson(summaryFile(folder), { vocabSize: options.vocabSize, ...counts });
}

function encodePiece({ text, ends }: Piece, { encode, endOfText, vocabSize }: TokenizeOptions): Uint8Array {
  const ids = encode(text);
  const closed = ends && endOfText !== undefined;
  const Ids = bytesOfId(vocabSize) === 2 ? Uint16Array : Uint32Array;
  const data = new Ids(ids.length + (closed ? 1 : 0));
  data.set(ids);
  if (closed) data[ids.length] = endOfText;
  return new Uint8Array(data.buffer);
}

/** Whether `tokenizeCorpus` has finished in a folder. */
export const hasTokens = (folder: string): boolean => existsSync(summaryFile(folder));

/**
 * Maps what `tokenizeCorpus` wrote: pages of it are in memory while they are used. Throws `checkpoint` where a file is
 * missing or has another length, `tokenizer` where the ids are not of a vocabulary of `vocabSize`.
 */
export async function openTokens(
  runtime: Runtime,
  folder: string,
  vocabSize: number,
): Promise<TokenizedCorpus> {
  const parsed = summary.safeParse(await readJson(summaryFile(folder)));
  if (!parsed.success)
    throw new FormatError(summaryFile(folder), "this does not describe tokens that train wrote");
  const { data } = parsed;
  if (data.vocabSize !== vocabSize)
    throw new LineageError(
      "tokenizer",
      `${folder} holds tokens of a vocabulary of ${data.vocabSize}, but the tokenizer has ${vocabSize}`,
    );
  const owned: Disposable[] = [];
  const map = (part: "training" | "validation"): Tokens => {
    const file = fileOf(folder, part);
    const bytes = data[part] * bytesOfId(vocabSize);
    const found = statSync(file, { throwIfNoEntry: false })?.size;
    if (found !== bytes)
      throw new LineageError(
        "checkpoint",
        `${file} ${found === undefined ? "is missing" : `has ${found} bytes`}, but its ${data[part]} tokens take ${bytes}; delete ${folder} to make it again`,
      );
    const mapping = runtime.mapFile(file);
    owned.push(mapping);
    if (bytesOfId(vocabSize) === 4) {
      const tensor = mapping.tensor("uint32", [data[part]], 0);
      owned.push(tensor);
      return tensor.view();
    }
    // 16-bit integers are no dtype of the engine; the bits of 16-bit floats are viewed as they.
    const tensor = mapping.tensor("float16", [data[part]], 0);
    owned.push(tensor);
    return tensor.view();
  };
  return {
    training: map("training"),
    validation: map("validation"),
    [Symbol.dispose]: () => {
      for (const part of owned.reverse()) part[Symbol.dispose]();
    },
  };
}
