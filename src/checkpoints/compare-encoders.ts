import { LineageError } from "../base/errors.js";
import { cosineSimilarity, indexOfLargest } from "../base/numbers.js";
import { type BatchTensor, padRows, paddingOf } from "../data/index.js";
import { readOnnx } from "../formats/index.js";
import { compile } from "../graph/index.js";
import type { WeightSet } from "../nn/index.js";
import { encodeModel } from "../onnx/index.js";
import type { DeviceTensor, Program, Runtime } from "../runtime/types.js";
import type { Encoding, Tokenizer } from "../tokenizers/index.js";
import { type MakeVector, encoderOutputs, vectorOutput } from "./encoder-onnx.js";
import { type HeldEncoder, encoderIn } from "./held-encoder.js";

/** What of one encoder another one has kept, over texts of several kinds and lengths. */
export interface EncoderComparison {
  readonly texts: number;
  /** Without padding. */
  readonly tokens: number;
  /** Root mean square of the differences of all numbers that come out, by the root mean square of the source's. */
  readonly relativeError: number;
  readonly largestDifference: number;
  /** Cosines of each text's vector with the source's; of an encoder without a head. */
  readonly cosine?: { readonly mean: number; readonly least: number };
  /** How many answers of a head are the source's: classes, tags, words behind tokens, ends of spans, choices. */
  readonly answers?: { readonly same: number; readonly all: number };
}

/** Texts over which encoders are compared. */
export const encoderProbe: readonly (readonly [string, string])[] = [
  ["A man is eating pasta.", "Someone has dinner."],
  ["The quick brown fox jumps over the lazy dog. In 1984, she wrote: “It's naïve!”", "He never wrote again."],
  ["def f(x):\n    return [y**2 for y in x if y != 0]", "A function that squares numbers."],
  ["吾輩は猫である。名前はまだ無い。", "どこで生れたか頓と見当がつかぬ。"],
  [
    "Once upon a time there was a little girl who lived in a village near the forest, and everyone loved her.",
    "Her grandmother gave her a red hood.",
  ],
  ["Interest rates rose again last week, and banks expect that they will stay high until the spring.", "No."],
  ["What a wonderful, wonderful film!", "I would rather not have seen it."],
  ["Berlin", "Paris"],
];

/**
 * Compares an encoder in another form with what it came from: both read the same texts in one batch, padded.
 * @param result the other form, or an ONNX file of it
 * @param vector makes the vectors that are compared; default their mean over a text's tokens
 */
export async function compareEncoders(
  runtime: Runtime,
  source: HeldEncoder<WeightSet>,
  result: HeldEncoder<WeightSet> | string,
  vector?: MakeVector,
): Promise<EncoderComparison> {
  const rows = probeRows(source);
  const inputs = probeInputs(source, rows);
  const expected = await outputsOf(runtime, source, inputs, vector);
  const actual =
    typeof result === "string"
      ? await outputsOfFile(runtime, result, inputs)
      : await outputsOf(runtime, result, inputs, vector);
  const mask = inputs["attention_mask"]!.data as ArrayLike<bigint>;
  const real = Array.from(mask, (value) => value === 1n);
  const comparable = (outputs: Readonly<Record<string, Output>>): Float32Array[][] =>
    Object.entries(outputs)
      .filter(([name]) => name !== vectorOutput)
      .map(([, { rows: all }]) => withoutPadding(source, all, real));
  const [ofSource, ofResult] = [comparable(expected), comparable(actual)];
  const common = {
    texts: rows.length,
    tokens: real.filter(Boolean).length,
    ...difference(ofSource.flat(), ofResult.flat()),
  };
  if (!("head" in source)) {
    const [a, b] = [expected, actual].map(
      (outputs) =>
        outputs[vectorOutput]?.rows ?? meansOf(outputs["last_hidden_state"]!.rows, real, rows.length),
    ) as [Float32Array[], Float32Array[]];
    const cosines = a.map((one, text) => cosineSimilarity(one, b[text]!));
    return { ...common, cosine: { mean: mean(cosines), least: Math.min(...cosines) } };
  }
  // A head with one output, a number, has nothing to choose from.
  if (ofSource[0]![0]!.length === 1) return common;
  const found = ofResult.flat().map(indexOfLargest);
  const same = ofSource.flat().filter((row, index) => indexOfLargest(row) === found[index]).length;
  return { ...common, answers: { same, all: found.length } };
}

/** What of an output's rows counts: the states and answers of tokens that are no padding. */
function withoutPadding(
  source: HeldEncoder<WeightSet>,
  rows: readonly Float32Array[],
  real: readonly boolean[],
): Float32Array[] {
  const head = "head" in source ? source.head : undefined;
  const length = real.length / rows.length;
  if (head === "span") return rows.map((row, text) => row.filter((_, at) => real[text * length + at]));
  return head === "classify" || head === "choice" ? [...rows] : rows.filter((_, index) => real[index]);
}

// ---- Texts --------------------------------------------------------------------------------------------------------

/** The probe's texts as a model reads them; for choices two texts of one example after the other. */
function probeRows(source: HeldEncoder<WeightSet>): Encoding[] {
  const { tokenizer } = source;
  const { contextLength } = encoderIn(source).config;
  const options = { maxLength: contextLength };
  const pairs = "head" in source && (source.head === "span" || source.head === "choice");
  const texts = encoderProbe.flatMap(([text, pair], place): [string, string | undefined][] => {
    if (!pairs) return [[text, undefined]];
    const [, other] = encoderProbe[(place + 1) % encoderProbe.length]!;
    return "head" in source && source.head === "choice"
      ? [
          [text, pair],
          [text, other],
        ]
      : [[text, pair]];
  });
  const rows = texts.flatMap(([text, pair]) => readable(tokenizer, text, pair, options));
  if (rows.length > 0 && rows.length === texts.length) return rows;
  // A tokenizer without bytes and without an unknown token knows no text but its own.
  return texts.map((_, row) => {
    const ids = Array.from(
      { length: Math.min(contextLength, 4 + 3 * row) },
      (_, at) => ((at + row) * 7919) % tokenizer.vocabSize,
    );
    const none = ids.map(() => 0);
    return { ...tokenizer.encodePair(""), ids, typeIds: none, sequences: none };
  });
}

function readable(
  tokenizer: Tokenizer,
  text: string,
  pair: string | undefined,
  options: { readonly maxLength: number },
): Encoding[] {
  try {
    return [tokenizer.encodePair(text, pair, options)];
  } catch (error) {
    if (!(error instanceof LineageError)) throw error;
    return [];
  }
}

/** The inputs that `encoderOutputs` names. */
function probeInputs(source: HeldEncoder<WeightSet>, rows: readonly Encoding[]): Record<string, BatchTensor> {
  const { config } = encoderIn(source);
  const padding = paddingOf(source.tokenizer, config.padTokenId);
  // A decoder's rows are filled up behind.
  const padded = padRows(rows, source.system.kind === "decoder" ? { ...padding, left: false } : padding);
  const wide = ({ data, shape }: BatchTensor): BatchTensor => ({
    data: BigInt64Array.from(data as ArrayLike<number> & Iterable<number>, (value) => BigInt(value)),
    shape: "head" in source && source.head === "choice" ? [shape[0]! / 2, 2, shape[1]!] : shape,
  });
  return {
    input_ids: wide(padded.inputIds),
    attention_mask: wide(padded.attentionMask),
    token_type_ids: wide(padded.tokenTypeIds),
  };
}

// ---- Programs -----------------------------------------------------------------------------------------------------

/** An output by rows along its last axis. */
interface Output {
  readonly rows: Float32Array[];
}

async function outputsOf(
  runtime: Runtime,
  held: HeldEncoder<WeightSet>,
  inputs: Readonly<Record<string, BatchTensor>>,
  vector: MakeVector | undefined,
): Promise<Record<string, Output>> {
  const { weights } = held;
  using program = await compile(runtime, encoderOutputs(held, vector), {
    name: "comparison",
    constants: weights.constants,
  });
  return run(runtime, program, inputs, weights.tensors);
}

async function outputsOfFile(
  runtime: Runtime,
  file: string,
  inputs: Readonly<Record<string, BatchTensor>>,
): Promise<Record<string, Output>> {
  using program = await runtime.createProgram(encodeModel(await readOnnx(file)));
  return run(runtime, program, inputs, {});
}

async function run(
  runtime: Runtime,
  program: Program,
  inputs: Readonly<Record<string, BatchTensor>>,
  bound: Readonly<Record<string, DeviceTensor>>,
): Promise<Record<string, Output>> {
  const given: Record<string, DeviceTensor> = {};
  try {
    for (const { name, dtype } of program.inputs) {
      const tensor = inputs[name];
      if (tensor) given[name] = runtime.createTensor(dtype, tensor.shape, tensor.data);
    }
    const results = await program.run({ ...bound, ...given });
    const outputs: Record<string, Output> = {};
    for (const [name, tensor] of Object.entries(results)) {
      using result = tensor;
      const data = (await result.read()) as Float32Array;
      const width = result.shape.at(-1)!;
      outputs[name] = {
        rows: Array.from({ length: data.length / width }, (_, row) =>
          data.slice(row * width, (row + 1) * width),
        ),
      };
    }
    return outputs;
  } finally {
    for (const tensor of Object.values(given)) tensor.dispose();
  }
}

// ---- Numbers ------------------------------------------------------------------------------------------------------

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

function difference(
  expected: readonly Float32Array[],
  actual: readonly Float32Array[],
): Pick<EncoderComparison, "relativeError" | "largestDifference"> {
  let [squares, size, largestDifference] = [0, 0, 0];
  expected.forEach((row, index) => {
    const other = actual[index]!;
    row.forEach((value, at) => {
      const missed = Math.abs(value - other[at]!);
      squares += missed ** 2;
      size += value ** 2;
      // What is no number is the largest difference there is.
      if (!(missed <= largestDifference)) largestDifference = missed;
    });
  });
  return { relativeError: squares === 0 ? 0 : Math.sqrt(squares / size), largestDifference };
}

/** The mean of each text's states. */
function meansOf(states: readonly Float32Array[], real: readonly boolean[], texts: number): Float32Array[] {
  const length = states.length / texts;
  return Array.from({ length: texts }, (_, text) => {
    const own = states.slice(text * length, (text + 1) * length).filter((_, at) => real[text * length + at]);
    return Float32Array.from(own[0]!, (_, at) => mean(own.map((state) => state[at]!)));
  });
}
