/**
 * A training step of a translator against PyTorch with transformers' Marian, in one run:
 *
 *   npm run build && node dist/bench/translation-training.js [--python PATH] [--data FOLDER] [--smoke] [--only equal|real]
 *
 * The base Transformer with random weights and without dropout. "Real lengths" are those of Multi30k's pairs in
 * `FOLDER/multi30k`, in words and an end token. The peer gets the pairs in the order of the file, 64 at a time, padded to the
 * longest of each batch; here pairs alike in both lengths share a batch of as many tokens, which is the whole point. `--only`
 * gives each part a process of its own, and so a peak memory of its own.
 */
import { existsSync, readFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { gunzipSync } from "node:zlib";
import { Random } from "../src/base/random.js";
import { type TextPair, pairsOnce } from "../src/data/index.js";
import { Transformer, transformerSizes, transformerTable } from "../src/models/index.js";
import { Weights } from "../src/nn/index.js";
import { sequenceToSequenceObjective } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { GradientNorm, TrainingStep, adamW, clippingFactor } from "../src/training/index.js";
import { Peer, peakMiB, timed } from "./harness.js";

const { values: options } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    data: { type: "string", default: "../shared/data" },
    smoke: { type: "boolean", default: false },
    only: { type: "string" },
  },
});
const { smoke } = options;
const config = {
  ...(smoke
    ? transformerTable.create({ hiddenSize: 64, numLayers: 2, numHeads: 2, vocabSize: 512 })
    : transformerSizes["transformer-base"].config),
  dropout: 0,
};
const runtime = createRuntime();
const random = new Random(1);
const rows = smoke ? 4 : 64;

type Lengths = readonly [source: number, target: number];

/** Lengths of Multi30k's pairs, shuffled; drawn from a like distribution where the files are not there. */
function realLengths(count: number): Lengths[] {
  const file = (language: string) => path.join(options.data, "multi30k", `train.${language}.gz`);
  const words = (language: string): number[] =>
    gunzipSync(readFileSync(file(language)))
      .toString("utf8")
      .trimEnd()
      .split("\n")
      .map((line) => line.split(" ").length + 1);
  if (!existsSync(file("de")))
    return Array.from({ length: count }, () => {
      const source = 6 + random.integer(10) + random.integer(10);
      return [source, Math.max(4, source - 3 + random.integer(7))];
    });
  const [sources, targets] = [words("de"), words("en")];
  const order = random.permutation(sources.length).subarray(0, count);
  return Array.from(order, (place) => [sources[place]!, targets[place]!] as const);
}

const idsOf = (length: number): number[] =>
  Array.from({ length }, () => 3 + random.integer(config.vocabSize - 3));
const inBatches = <T>(items: readonly T[], size: number): T[][] =>
  Array.from({ length: items.length / size }, (_, index) => items.slice(index * size, (index + 1) * size));
const total = (seconds: readonly number[]): number => seconds.reduce((a, b) => a + b, 0);

const peer = await Peer.start(options.python, "translation-training.py", runtime.threads);
console.log(
  `${os.cpus()[0]?.model ?? "?"}, ${runtime.threads} threads, ONNX Runtime ${runtime.version}, ${peer ? `PyTorch ${peer.version}` : "no PyTorch"}${smoke ? ", smoke run" : ""}\n`,
);

/** One training step for each batch: forward, backward, norm, AdamW. `maxTokens` limits a batch here, `rows` there. */
async function train(name: string, lengths: readonly Lengths[], maxTokens: number): Promise<void> {
  const model = new Transformer(config);
  using weights = Weights.initialize(runtime, model, 1);
  using gradients = weights.like();
  using step = await TrainingStep.create(sequenceToSequenceObjective(model), weights, gradients);
  using optimizer = await adamW(weights, gradients);
  using norm = await GradientNorm.create(runtime, gradients);
  const pairs = lengths.map(([source, target]): TextPair => ({
    source: idsOf(source),
    target: idsOf(target),
  }));
  const batches = [...pairsOnce(pairs, { maxTokens, padId: 0, startId: 0 })];
  const run = async (batch: (typeof batches)[number]): Promise<void> => {
    await step.run(batch);
    const length = await norm.measure();
    await optimizer.update({ learningRate: 1e-4, gradientScale: clippingFactor(length, 1) });
  };
  // The largest batch first, so that memory has its size.
  await run(batches.reduce((a, b) => (b.tokens! > a.tokens! ? b : a)));
  const seconds: number[] = [];
  for (const batch of batches) seconds.push(...(await timed(1, () => run(batch))));
  const theirs = await peer?.ask({ op: "train", config, batches: inBatches(lengths, rows) });
  const rate = (time: number) => `${(pairs.length / time).toFixed(1)} pairs/s`;
  const own = total(seconds);
  console.log(
    `${name.padEnd(42)} ${rate(own)}, ${peakMiB().toFixed(0)} MiB` +
      (theirs
        ? `   PyTorch ${rate(total(theirs.seconds))}, ${theirs.peakMiB.toFixed(0)} MiB: ${(total(theirs.seconds) / own).toFixed(2)}x its speed`
        : ""),
  );
}

const wanted = (part: string) => options.only === undefined || options.only === part;
const length = 25;
if (wanted("equal"))
  await train(
    `Transformer-base, ${rows} pairs of ${length} and ${length} tokens`,
    Array.from({ length: (smoke ? 2 : 4) * rows }, () => [length, length] as const),
    rows * length,
  );
if (wanted("real"))
  await train(
    `Transformer-base, Multi30k lengths, by ${rows}`,
    realLengths((smoke ? 2 : 6) * rows),
    rows * length,
  );
peer?.stop();
