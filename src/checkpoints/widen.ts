import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import { Weights, namedParameters } from "../nn/index.js";
import type { Tokenizer } from "../tokenizers/index.js";
import type { DecoderCheckpoint } from "./checkpoint.js";

/** New rows of the embeddings lie about the mean of the old ones, this part of their deviation away from it. */
const spread = 0.1;

export interface WidenOptions {
  /** The tokenizer with the tokens that are new; the ids of the others stay. */
  readonly tokenizer: Tokenizer;
  /** Makes it a prefix language model. Default: as it was. */
  readonly prefixLm?: boolean | undefined;
  /** Of the first values of new rows. Default 0. */
  readonly seed?: number | undefined;
}

/**
 * A decoder that is to go on learning with more tokens, or as a prefix language model: a network of its own with all the
 * weights it had. Embeddings get a row for each new token: the mean of the old rows, with a little noise, so that no new token
 * is likely before it has been learned (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models") and no
 * two are alike. Rows that the embeddings have beyond the tokenizer's tokens are used before any is added. Throws
 * `unsupported` for a system that cannot read prompts both ways.
 */
export async function widenDecoder(
  { system, model, weights, stopIds }: DecoderCheckpoint,
  { tokenizer, prefixLm, seed = 0 }: WidenOptions,
): Promise<DecoderCheckpoint> {
  if (prefixLm && !system.config.has("prefixLm"))
    throw new LineageError("unsupported", `${system.title} reads from left to right alone`);
  const vocabSize = Math.max(model.config.vocabSize, tokenizer.vocabSize);
  const wider = system.create(
    system.config.create({ ...model.config, vocabSize, ...(prefixLm && { prefixLm }) }),
  );
  const random = new Random(seed);
  const widened = Weights.allocate(weights.runtime, wider);
  for (const [name, { size, shape }] of namedParameters(wider)) {
    const old = (await weights.get(name).read()) as Float32Array;
    const values = new Float32Array(size);
    values.set(old);
    if (old.length < size) addRows(values, old.length, size / shape[0]!, random.fork(name));
    widened.get(name).write(values);
  }
  return { system, model: wider, weights: widened, tokenizer, stopIds };
}

/** Fills rows of `width` from `start` on, by the mean and the deviation of each channel in the rows before. */
function addRows(values: Float32Array, start: number, width: number, random: Random): void {
  const rows = start / width;
  for (let channel = 0; channel < width; channel++) {
    let [sum, squares] = [0, 0];
    for (let at = channel; at < start; at += width) {
      sum += values[at]!;
      squares += values[at]! ** 2;
    }
    const mean = sum / rows;
    const deviation = Math.sqrt(Math.max(0, squares / rows - mean ** 2));
    for (let at = start + channel; at < values.length; at += width)
      values[at] = mean + spread * deviation * random.normal();
  }
}
