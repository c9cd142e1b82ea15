/**
 * U-PaLM (Tay et al. 2022, "Transcending Scaling Laws with 0.1% Extra Compute"): a causal model goes on for a little while under
 * UL2R, the mixture of denoisers, as a prefix language model.
 *
 * The claim in miniature (sections 3 and 4): from one checkpoint and with the same number of tokens, UL2R makes a better model than
 * more of the causal objective, so that compute is saved; and it can fill gaps, which the causal model cannot. A small PaLM learns
 * captions (Multi30k, English), and lists in which something is looked up ("ann: tea. tom: jam. tom? jam"), a task that is solved
 * from the prompt alone, until more of the same brings little: several passes over a small corpus. Then it goes on from there, with
 * the same documents, rates and tokens. Every row holds whole documents, none of which sees another; each is denoised by itself, so
 * that the objective meets texts as short as those that are asked of it. Measured on held-out documents:
 *
 *   - the end of a document from its beginning, in nats per token: what both can do;
 *   - hidden spans, in nats per hidden token: UL2R's model reads both sides, the causal one what is before them;
 *   - one hidden word of a caption, found exactly;
 *   - lists of 1, 2, 3 and 4 entries, the answer found exactly.
 *
 * Both go on for three times as long, too: what the causal model then lacks still is compute that UL2R saves.
 *
 * The end of a document shows it: UL2R's 400 steps come to 2.235 nats and its 1,200 to 2.213, where the causal objective was at 2.240 at
 * best and goes up to 2.311. Gaps are not filled by then: 3.5 nats for a hidden token, which the causal model guesses with 2.6.
 *
 *   node dist/recipes/u-palm.js [--data FOLDER with multi30k, default ../shared/data] [--out FOLDER] [--scale X] [--smoke]
 */
import path from "node:path";
import { Random } from "../src/base/random.js";
import { saveModel, widenDecoder } from "../src/checkpoints/index.js";
import {
  type Batch,
  type BatchSource,
  DocumentSource,
  PackedLoader,
  type Tokens,
  tokenBatch,
} from "../src/data/index.js";
import { Decoder, generate, infillText } from "../src/generation/index.js";
import { palm } from "../src/models/index.js";
import { type CausalLm, Weights, countParameters } from "../src/nn/index.js";
import {
  type Denoiser,
  denoisedRow,
  denoisingTokens,
  denoisingVocabulary,
  mixedRow,
  nextTokenObjective,
  packedObjective,
  packedPrefixBatch,
  packedPrefixObjective,
  prefixBatch,
  prefixObjective,
  ul2rMixture,
} from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { modeTokens, trainTokenizer, withTokens } from "../src/tokenizers/index.js";
import { EvaluationStep, type Objective, Trainer, adamW, schedule } from "../src/training/index.js";
import { millions, percent, plot, printTable, recipeOptions } from "./recipe.js";
import { captions } from "./sequences.js";

const options = recipeOptions("u-palm");
const { smoke, scale, out, threads } = options;
const settings = {
  vocabSize: smoke ? 600 : 1000,
  hiddenSize: smoke ? 32 : 64,
  numLayers: smoke ? 1 : 3,
  /** Few and wide: all heads share one key and one value, by which a token must be told from a thousand others. */
  numHeads: 2,
  sequenceLength: 64,
  batchSize: 16,
  /** Of the one causal model. */
  steps: smoke ? 6 : Math.round(1500 * scale),
  /** Of each continuation. */
  further: smoke ? 4 : Math.round(400 * scale),
  learningRate: 2e-3,
  /** Peak of a continuation, whose rate falls along a cosine to a hundredth; section 3.4. */
  furtherRate: 1e-3,
  /** Captions to learn from, and a list after each. */
  captions: smoke ? 400 : 4000,
  rows: smoke ? 32 : 320,
  tested: smoke ? 6 : 200,
};
const { sequenceLength, batchSize } = settings;

// ---- Text ---------------------------------------------------------------------------------------------------------

const names = "ann tom sue ben eva jim lea max ida leo amy sam".split(" ");
const things = "tea jam pie rice milk soup bread cake fish corn nuts figs".split(" ");
/** A list of some entries, what is asked of it, and the answer. */
function list(entries: number, random: Random): { prompt: string; answer: string } {
  const [people, food] = [random.permutation(names.length), random.permutation(things.length)];
  const pairs = Array.from(
    { length: entries },
    (_, at) => [names[people[at]!]!, things[food[at]!]!] as const,
  );
  const [name, answer] = pairs[random.integer(entries)]!;
  return { prompt: `${pairs.map(([who, what]) => `${who}: ${what}.`).join(" ")} ${name}?`, answer };
}
const { name: corpus, train: sentences, test } = captions(options);
const mixed = (lines: readonly string[], seed: number): string[] => {
  const random = new Random(seed);
  return lines.flatMap((line, index) => {
    const one = random.fork(index);
    const { prompt, answer } = list(1 + one.integer(4), one);
    return [line, `${prompt} ${answer}.`];
  });
};
const documents = mixed(sentences.en.slice(0, settings.captions), 1);
const heldOutDocuments = mixed(test.en, 2);
const plain = trainTokenizer(palm.tokenizer, documents, settings.vocabSize);
const tokenizer = withTokens(plain, denoisingTokens(ul2rMixture, sequenceLength), {
  prompt: modeTokens.sequential,
});
const encode = (texts: readonly string[]): Tokens[] =>
  texts.map((text) => Int32Array.from([...plain.encode(text), plain.endOfTextId!]));
const training = encode(documents);

// ---- What is measured -----------------------------------------------------------------------------------------------

const vocabulary = denoisingVocabulary(tokenizer, ul2rMixture, sequenceLength);
const marks = new Set([...vocabulary.sentinels, vocabulary.endId]);
/** A held-out row for each of the two models, which predict the same tokens of it. */
interface Pair {
  readonly causal: Row;
  readonly both: Row;
}
/** Ids, the length of the prefix, and which of the ids are predicted. */
interface Row {
  readonly ids: readonly number[];
  readonly prefixLength: number;
  readonly counted: (place: number) => boolean;
}

const heldOut = encode(heldOutDocuments)
  .filter(({ length }) => length <= sequenceLength / 2)
  .slice(0, settings.rows)
  .map((ids) => Array.from(ids));
const ends: Pair[] = heldOut.map((ids, index) => {
  const denoiser: Denoiser = { kind: "prefix", mode: modeTokens.sequential };
  const row = denoisedRow(ids, denoiser, vocabulary, new Random(3).fork(index));
  const border = row.prefixLength - 1;
  return {
    causal: { ids, prefixLength: 0, counted: (place) => place >= border },
    both: { ...row, counted: (place) => place >= row.prefixLength },
  };
});
const hiddenSpans: Pair[] = heldOut.map((ids, index) => {
  const denoiser: Denoiser = { kind: "spans", rate: 0.15, meanLength: 3, mode: modeTokens.regular };
  const row = denoisedRow(ids, denoiser, vocabulary, new Random(4).fork(index));
  const lengths: number[] = [];
  for (const id of row.ids.slice(row.prefixLength, -1))
    if (marks.has(id) && vocabulary.sentinels[lengths.length] === id) lengths.push(0);
    else lengths[lengths.length - 1]!++;
  const hidden = new Set<number>();
  let [place, span] = [0, 0];
  for (const id of row.ids.slice(1, row.prefixLength)) {
    if (id !== vocabulary.sentinels[span]) {
      place++;
      continue;
    }
    for (let at = 0; at < lengths[span]!; at++) hidden.add(place++);
    span++;
  }
  return {
    causal: { ids, prefixLength: 0, counted: (at) => hidden.has(at) },
    both: {
      ...row,
      counted: (at) =>
        at >= row.prefixLength && at < row.ids.length - 1 && !vocabulary.sentinels.includes(row.ids[at]!),
    },
  };
});

/** Nats per predicted token. */
async function nats(step: EvaluationStep, rows: readonly Row[], bothWays: boolean): Promise<number> {
  let [sum, count] = [0, 0];
  for (let start = 0; start < rows.length; start += batchSize) {
    const part = rows.slice(start, start + batchSize);
    const { tensors } = prefixBatch(part, sequenceLength, batchSize);
    const labels = tensors["labels"]!.data as Int32Array;
    part.forEach(({ counted }, row) => {
      for (let at = 0; at < sequenceLength; at++)
        if (!counted(at + 1)) labels[row * sequenceLength + at] = -100;
    });
    const batch: Batch = tokenBatch(tensors["inputIds"]!.data as Int32Array, labels, [
      batchSize,
      sequenceLength,
    ]);
    const { prefix } = tensors;
    const { tokens } = await step.run(
      bothWays ? { ...batch, tensors: { ...batch.tensors, prefix: prefix! } } : batch,
    );
    sum += tokens!;
    count += batch.counts["tokens"]!;
  }
  return sum / count;
}

interface Measured {
  readonly end: number;
  readonly hidden: number;
  readonly word: number;
  readonly lists: readonly number[];
}

const random = new Random(5);
/** Captions without one word, that is neither the first nor the last. */
const gaps = test.en.slice(0, settings.tested).flatMap((caption, index) => {
  const words = caption.split(" ");
  if (words.length < 4) return [];
  const place = 1 + random.fork(index).integer(words.length - 2);
  return [
    { before: words.slice(0, place).join(" "), word: words[place]!, after: words.slice(place + 1).join(" ") },
  ];
});
const shots = [1, 2, 3, 4];
const questions = shots.map((entries) =>
  Array.from({ length: settings.tested }, (_, index) =>
    list(entries, new Random(6).fork(`${entries}, ${index}`)),
  ),
);

/** The first word that a model writes after a prompt. */
async function nextWords(
  decoder: Decoder,
  prompts: readonly string[],
  begin: readonly number[],
): Promise<string[]> {
  const ids: number[][] = prompts.map(() => []);
  const asked = prompts.map((prompt) => [...begin, ...plain.encode(prompt)]);
  for await (const { row, id } of generate(decoder, asked, { temperature: 0, maxNewTokens: 8 }))
    if (id !== undefined) ids[row]!.push(id);
  return ids.map((row) => /^\s*[\p{L}\p{N}-]+/u.exec(tokenizer.decode(row))?.[0].trim() ?? "");
}
const share = (found: readonly string[], wanted: readonly string[]): number =>
  found.filter((word, index) => word === wanted[index]!.replace(/[^\p{L}\p{N}-]+$/u, "")).length /
  wanted.length;

async function measure(model: CausalLm, weights: Weights, step: EvaluationStep): Promise<Measured> {
  const bothWays = model.config.prefixLm === true;
  const rowsOf = (pairs: readonly Pair[]) => pairs.map(({ causal, both }) => (bothWays ? both : causal));
  const begin = bothWays ? [tokenizer.promptId!] : [];
  using decoder = await Decoder.create({ model, weights, capacity: 128, slots: 8 });
  const words = gaps.map(({ word }) => word);
  const found = bothWays
    ? await Promise.all(
        gaps.map(async ({ before, after }) => {
          const { gaps: written } = await infillText({ decoder, tokenizer }, `${before} <gap> ${after}`, {
            temperature: 0,
            maxGapTokens: 6,
          });
          return /^\s*[\p{L}\p{N}-]+/u.exec(written[0] ?? "")?.[0].trim() ?? "";
        }),
      )
    : await nextWords(
        decoder,
        gaps.map(({ before }) => before),
        begin,
      );
  const lists: number[] = [];
  for (const asked of questions) {
    const answers = await nextWords(
      decoder,
      asked.map(({ prompt }) => prompt),
      begin,
    );
    lists.push(
      share(
        answers,
        asked.map(({ answer }) => answer),
      ),
    );
  }
  return {
    end: await nats(step, rowsOf(ends), bothWays),
    hidden: await nats(step, rowsOf(hiddenSpans), bothWays),
    word: share(found, words),
    lists,
  };
}

// ---- One causal model, and two ways to go on --------------------------------------------------------------------------

const runtime = createRuntime({ threads });
interface Learning {
  readonly name: string;
  readonly objective: Objective;
  readonly source: BatchSource;
  readonly weights: Weights;
  readonly steps: number;
  readonly learningRate: number;
  readonly floor: number;
  /** Steps before these, for the plot. */
  readonly before: number;
  /** The loss of the end of a text, while it learns. */
  readonly score: () => Promise<number>;
}

async function learn({
  name,
  objective,
  source,
  weights,
  steps,
  learningRate,
  floor,
  before,
  score,
}: Learning) {
  using trainer = await Trainer.create({
    objective,
    weights,
    source,
    optimizer: (...buffers) => adamW(...buffers, { betas: [0.9, 0.99], weightDecay: 0.1 }),
    schedule: schedule("cosine", {
      learningRate,
      warmupSteps: Math.min(100, Math.ceil(steps / 10)),
      totalSteps: steps,
      minimum: floor * learningRate,
    }),
    seed: 1,
  });
  const points: { step: number; loss: number }[] = [];
  for (let step = 1; step <= steps; step++) {
    await trainer.step();
    if (step % Math.ceil(steps / 8) !== 0 && step !== steps) continue;
    points.push({ step: before + step, loss: await score() });
    process.stderr.write(`${name}: step ${step} of ${steps}, ${points.at(-1)!.loss.toFixed(4)}\n`);
  }
  return { label: name, points };
}

const shape = { batchSize, sequenceLength };
const config = palm.config.create({
  hiddenSize: settings.hiddenSize,
  numLayers: settings.numLayers,
  numHeads: settings.numHeads,
  vocabSize: plain.vocabSize,
  contextLength: 128,
});
const causal = palm.create(config);
const next = packedObjective(causal, shape);
const loader = (seed: number) => new PackedLoader(training, { ...shape, seed }, corpus);
console.log(
  `${corpus}: ${documents.length} documents; a PaLM of ${millions(countParameters(causal))} parameters`,
);

using base = Weights.initialize(runtime, causal, 1);
using causalStep = await EvaluationStep.create(nextTokenObjective(causal, shape), base);
const endOf = (step: EvaluationStep, bothWays: boolean) => () =>
  nats(
    step,
    ends.map((pair) => (bothWays ? pair.both : pair.causal)),
    bothWays,
  );
const first = await learn({
  name: "causal",
  objective: next,
  source: loader(1),
  weights: base,
  steps: settings.steps,
  learningRate: settings.learningRate,
  floor: 0.1,
  before: 0,
  score: endOf(causalStep, false),
});
await saveModel(path.join(out, "causal"), {
  system: palm,
  model: causal,
  weights: base,
  tokenizer: plain,
});
const results: [string, Measured][] = [["causal model", await measure(causal, base, causalStep)]];

const going = { learningRate: settings.furtherRate, floor: 0.01, before: settings.steps };
const curves = [first];
/** Gaps that a model filled. */
const filled: string[] = [];
/** Longer than UL2R goes on by, too: what the causal objective comes to, and what UL2R. */
for (const times of smoke ? [1] : [1, 3]) {
  const steps = times * settings.further;
  {
    using weights = base.copy();
    using step = await EvaluationStep.create(nextTokenObjective(causal, shape), weights);
    const [name, score] = [`causal, ${steps} steps more`, endOf(step, false)];
    curves.push(await learn({ ...going, name, objective: next, source: loader(2), weights, steps, score }));
    results.push([name, await measure(causal, weights, step)]);
  }
  const widened = await widenDecoder(
    { system: palm, model: causal, weights: base, tokenizer: plain },
    { tokenizer, prefixLm: true, seed: 1 },
  );
  const { model } = widened;
  using weights = widened.weights;
  using step = await EvaluationStep.create(prefixObjective(model, shape), weights);
  const [name, score] = [`UL2R, ${steps} steps more`, endOf(step, true)];
  const objective = packedPrefixObjective(model, shape);
  const source = new DocumentSource([{ documents: training, rate: 1, name: corpus }], {
    ...{ rowLength: sequenceLength, batchSize, seed: 2 },
    transform: (document, draws) => mixedRow(document, ul2rMixture, vocabulary, sequenceLength, draws),
    lengthOf: ({ ids }) => ids.length,
    collate: (rows) => packedPrefixBatch(rows, sequenceLength, batchSize),
  });
  curves.push(await learn({ ...going, name, objective, source, weights, steps, score }));
  results.push([name, await measure(model, weights, step)]);
  await saveModel(path.join(out, "model"), widened);
  using decoder = await Decoder.create({ model, weights, capacity: 128 });
  filled.push(name);
  for (const { before, word, after } of gaps.slice(0, 4)) {
    const gap = `${before} <gap> ${after}`;
    const { text } = await infillText({ decoder, tokenizer }, gap, { temperature: 0, maxGapTokens: 6 });
    filled.push(`  ${before} [${word}] ${after}`, `    ${text}`);
  }
}

printTable(
  ["", "end, nats", "hidden spans, nats", "word in a gap", ...shots.map((entries) => `list of ${entries}`)],
  results.map(([name, { end, hidden, word, lists }]) => [
    name,
    end.toFixed(4),
    hidden.toFixed(4),
    percent(word),
    ...lists.map(percent),
  ]),
);
console.log(filled.join("\n"));
await plot(path.join(out, "loss.svg"), "The end of a text from its beginning, nats per token", curves);
