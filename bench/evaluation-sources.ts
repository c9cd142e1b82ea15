/**
 * Likelihoods of answers by an encoder-decoder: one source at a time, and eight side by side.
 *
 *   node dist/bench/evaluation-sources.js [--rows 64] [--threads 1]
 *
 * A T5 of the small size with random weights; sources of 40 to 120 tokens, four answers of one token or of four.
 */
import { parseArgs } from "node:util";
import { Random } from "../src/base/random.js";
import { targetLikelihoods, type Target } from "../src/evaluation/likelihood.js";
import { Decoder } from "../src/generation/index.js";
import { T5, t5Table } from "../src/models/index.js";
import { Weights } from "../src/nn/index.js";
import { createRuntime } from "../src/runtime/index.js";

const { values: options } = parseArgs({
  options: { rows: { type: "string", default: "64" }, threads: { type: "string", default: "1" } },
});
const rows = Number(options.rows);
const model = new T5(t5Table.create({ vocabSize: 32_128, hiddenSize: 512, numLayers: 6, numHeads: 8 }));
using weights = Weights.initialize(createRuntime({ threads: Number(options.threads) }), model, 1);
const random = new Random(5);
const ids = (count: number): number[] => Array.from({ length: count }, () => 10 + random.integer(30_000));

for (const length of [1, 4]) {
  const answers = Array.from({ length: 4 }, () => ids(length));
  const asked = Array.from({ length: rows }, () => ids(40 + random.integer(80))).flatMap((source) =>
    answers.map((target): Target => ({ source, context: [0], target })),
  );
  const sums: number[][] = [];
  for (const slots of [1, 8]) {
    using decoder = await Decoder.create({ model, weights, slots });
    await targetLikelihoods(decoder, asked.slice(0, 8));
    decoder.forget();
    const [started, before] = [performance.now(), process.cpuUsage()];
    sums.push((await targetLikelihoods(decoder, asked)).map(({ sum }) => sum));
    const { user, system } = process.cpuUsage(before);
    const cpu = (user + system) / 1e6;
    console.log(
      `answers of ${length}, ${slots} side by side: ${rows} rows in ${((performance.now() - started) / 1000).toFixed(2)} s, ${cpu.toFixed(2)} s of processor time, ${(rows / cpu).toFixed(1)} rows/s`,
    );
  }
  const apart = Math.max(...sums[0]!.map((sum, index) => Math.abs(sum - sums[1]![index]!)));
  console.log(`likelihoods differ by ${apart.toExponential(1)} at most`);
}
