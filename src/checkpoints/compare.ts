import { LineageError } from "../base/errors.js";
import { Decoder } from "../generation/index.js";
import { ChatTemplate } from "../tokenizers/index.js";
import { readOnnx } from "../formats/index.js";
import { EncoderDecoder, type EncoderDecoderConfig, type WeightSet, namedParameters } from "../nn/index.js";
import type { SystemConfig } from "../models/index.js";
import { encodeModel } from "../onnx/index.js";
import type { Runtime } from "../runtime/types.js";
import type { CheckpointOfKind, DecoderCheckpoint } from "./checkpoint.js";

/** A model that writes: a decoder, or an encoder-decoder, which reads the probe and writes it again. */
type RunnableModel = CheckpointOfKind<WeightSet>["decoder" | "encoder-decoder"];

/** What of one model another one has kept. */
export interface Comparison {
  /** Tokens after which the distributions of the next one were compared. */
  readonly tokens: number;
  /** Kullback-Leibler divergence of the result's distributions from the source's, in nats. */
  readonly meanDivergence: number;
  readonly largestDivergence: number;
  /** Tokens after which both find the same one most probable. */
  readonly sameFirst: number;
  /** What the files say besides the numbers; absent for a result that is numbers only. */
  readonly files?: {
    /** Whether the output embeddings are the token embeddings. */
    readonly tied: Pair<boolean>;
    readonly vocabularySize: Pair<number>;
    /** Ids that stand for another token. */
    readonly differentTokens: number;
    /** Whether the probe is cut into the same tokens. */
    readonly sameCut: boolean;
    readonly specialIds: Pair<Readonly<Record<string, number | readonly number[] | undefined>>>;
    /** Whether a conversation becomes the same ids; undefined where neither has a template. */
    readonly sameTemplate: boolean | undefined;
  };
}

interface Pair<T> {
  readonly source: T;
  readonly result: T;
}

/** A text of several kinds, over which models are compared. */
export const probe =
  "The quick brown fox jumps over the lazy dog. In 1984, she wrote: “It's naïve!”  吾輩は猫である。名前はまだ無い。\n" +
  "def f(x):\n    return [y**2 for y in x if y != 0]  # 🙂\n\n" +
  "Once upon a time there was a little girl who lived in a village near the forest, and everyone loved her.";

/** Compares a converted model with what it came from. */
export async function compareModels(source: RunnableModel, result: RunnableModel): Promise<Comparison> {
  const ids = probeIds(source);
  const [expected, actual] = [await allLogits(source, ids), await allLogits(result, ids)];
  const { tokenizer: a } = source;
  const { tokenizer: b } = result;
  let differentTokens = 0;
  const size = Math.min(a.vocabSize, b.vocabSize);
  for (let id = 0; id < size; id++) if (a.idToToken(id) !== b.idToToken(id)) differentTokens++;
  const special = ({ tokenizer, stopIds, ...loaded }: RunnableModel) => ({
    ...(loaded.system.kind === "encoder-decoder" && {
      start: loaded.system.startId(loaded.model.config as EncoderDecoderConfig & SystemConfig),
    }),
    bos: tokenizer.addsBos ? tokenizer.bosId : undefined,
    eos: tokenizer.eosId,
    unknown: tokenizer.unkId,
    padding: tokenizer.padId,
    stop: stopIds ?? (tokenizer.eosId === undefined ? [] : [tokenizer.eosId]),
  });
  return {
    ...compareLogits(expected, actual),
    files: {
      tied: { source: isTied(source), result: isTied(result) },
      vocabularySize: { source: a.vocabSize, result: b.vocabSize },
      differentTokens,
      sameCut: cutOf(() => a.encode(probe)) === cutOf(() => b.encode(probe)),
      specialIds: { source: special(source), result: special(result) },
      sameTemplate: sameTemplate(source, result),
    },
  };
}

/** Compares the logits of an ONNX file with those of the model that it came from. */
export async function compareOnnx(
  runtime: Runtime,
  source: DecoderCheckpoint<WeightSet>,
  file: string,
): Promise<Comparison> {
  const ids = probeIds(source);
  const expected = await allLogits(source, ids);
  using program = await runtime.createProgram(encodeModel(await readOnnx(file)));
  using inputIds = runtime.createTensor("int64", [1, ids.length], BigInt64Array.from(ids, BigInt));
  const results = await program.run({ inputIds }, {});
  using logits = results["logits"]!;
  const flat = (await logits.read()) as Float32Array;
  const { vocabSize } = source.model.config;
  const actual = ids.map((_, index) => flat.subarray(index * vocabSize, (index + 1) * vocabSize));
  return compareLogits(expected, actual);
}

const isTied = ({ model }: RunnableModel): boolean => !namedParameters(model).has("lm_head.weight");

/** The ids of a text, or why a tokenizer that knows no text but its own has none. */
function cutOf(encode: () => readonly number[]): string {
  try {
    return encode().join();
  } catch (error) {
    if (!(error instanceof LineageError)) throw error;
    return error.message;
  }
}

function probeIds({ model, tokenizer }: RunnableModel): number[] {
  let ids: number[];
  try {
    ids = tokenizer.encode(probe);
  } catch (error) {
    if (!(error instanceof LineageError)) throw error;
    // A tokenizer without bytes and without an unknown token knows no text but its own.
    ids = Array.from({ length: 64 }, (_, index) => (index * 7919) % tokenizer.vocabSize);
  }
  return ids.slice(0, Math.min(model.config.contextLength, 128));
}

async function allLogits({ model, weights }: RunnableModel, ids: readonly number[]): Promise<Float32Array[]> {
  using decoder = await Decoder.create({ model, weights, capacity: ids.length });
  if (!(model instanceof EncoderDecoder)) return await decoder.extend(decoder.open(), ids);
  // Its text begins with the start token, after which all of the probe but its last token is read.
  const prompt = { source: ids };
  const slot = decoder.open(prompt);
  const first = (await decoder.read(slot, prompt)).slice();
  return [first, ...(await decoder.extend(slot, ids.slice(0, -1)))];
}

function compareLogits(
  expected: readonly Float32Array[],
  actual: readonly Float32Array[],
): Pick<Comparison, "tokens" | "meanDivergence" | "largestDivergence" | "sameFirst"> {
  const divergences = expected.map((row, index) => divergence(row, actual[index]!));
  const first = (row: Float32Array) => row.reduce((best, value, id) => (value > row[best]! ? id : best), 0);
  return {
    tokens: expected.length,
    meanDivergence: divergences.reduce((a, b) => a + b, 0) / expected.length,
    largestDivergence: divergences.reduce((a, b) => Math.max(a, b), 0),
    sameFirst: expected.filter((row, index) => first(row) === first(actual[index]!)).length,
  };
}

/** Kullback-Leibler divergence of `q` from `p`, both as logits, in nats. */
function divergence(p: Float32Array, q: Float32Array): number {
  const normalizer = (row: Float32Array) => {
    const peak = row.reduce((a, b) => Math.max(a, b), -Infinity);
    return peak + Math.log(row.reduce((sum, value) => sum + Math.exp(value - peak), 0));
  };
  const [pNormalizer, qNormalizer] = [normalizer(p), normalizer(q)];
  // The sum is never negative; its rounding may be.
  return Math.max(
    0,
    p.reduce(
      (sum, value, id) =>
        sum + Math.exp(value - pNormalizer) * (value - pNormalizer - (q[id]! - qNormalizer)),
      0,
    ),
  );
}

function sameTemplate(source: RunnableModel, result: RunnableModel): boolean | undefined {
  const templates = [source, result].map(({ tokenizer }) => tokenizer.chatTemplate() !== undefined);
  if (!templates.includes(true)) return undefined;
  if (templates.includes(false)) return false;
  const messages = [
    { role: "user", content: "Hello!" },
    { role: "assistant", content: "Hi. What is it?" },
    { role: "user", content: "  Two spaces" },
  ] as const;
  const [a, b] = [source, result].map(({ tokenizer }) =>
    cutOf(() => new ChatTemplate(tokenizer).encode(messages)),
  );
  return a === b;
}
