/**
 * Speed as ratios against PyTorch in the same run, where a Python with torch and transformers is present:
 *
 *   npm run bench                        own figures, and PyTorch's when `python3` has it
 *   npm run bench -- --python PATH       another Python
 *   npm run bench -- --smoke             seconds instead of minutes: checks that everything runs
 */
import os from "node:os";
import { parseArgs } from "node:util";
import { tokenBatch } from "../src/data/index.js";
import { Decoder } from "../src/generation/index.js";
import { compile, input, matmul } from "../src/graph/index.js";
import { Gpt2, gpt2Config, gpt2Sizes } from "../src/models/index.js";
import { Weights } from "../src/nn/index.js";
import { createRuntime } from "../src/runtime/index.js";
import {
  GradientNorm,
  TrainingStep,
  adamW,
  clippingFactor,
  nextTokenObjective,
} from "../src/training/index.js";
import { Peer, median, timed } from "./harness.js";

const { values: options } = parseArgs({
  options: { python: { type: "string", default: "python3" }, smoke: { type: "boolean", default: false } },
});
const runtime = createRuntime();
const smoke = options.smoke;
const config = smoke
  ? gpt2Config({ hiddenSize: 64, numLayers: 2, numHeads: 2, vocabSize: 512, contextLength: 256, dropout: 0 })
  : { ...gpt2Sizes.gpt2, dropout: 0 };

function report(name: string, own: number, unit: (seconds: number) => string, peer?: number): void {
  const ratio = peer === undefined ? "" : `   PyTorch ${unit(peer)}   ${(peer / own).toFixed(2)}x its speed`;
  console.log(`${name.padEnd(44)} ${unit(own)}${ratio}`);
}

const peer = await Peer.start(options.python, "peer.py", runtime.threads);
console.log(
  `${os.cpus()[0]?.model ?? "?"}, ${runtime.threads} threads, ONNX Runtime ${runtime.version}, ${peer ? `PyTorch ${peer.version}` : "no PyTorch"}${smoke ? ", smoke run" : ""}\n`,
);

{
  const x = input("x", "float32", [4]);
  using program = await compile(runtime, { y: x.add(1) });
  using state = runtime.createTensor("float32", [4]);
  using binding = program.bind({ x: state }, { y: state });
  const count = 20_000;
  for (let i = 0; i < 1000; i++) binding.runSync();
  const [seconds] = await timed(1, () => {
    for (let i = 0; i < count; i++) binding.runSync();
  });
  report("overhead of one run", seconds! / count, (value) => `${(value * 1e6).toFixed(1)} us`);
}

{
  const size = smoke ? 256 : 2048;
  const repeats = smoke ? 2 : 9;
  using program = await compile(runtime, {
    y: matmul(input("a", "float32", [size, size]), input("b", "float32", [size, size])),
  });
  const [a, b, y] = [0, 1, 2].map(() =>
    runtime.createTensor("float32", [size, size], new Float32Array(size * size).fill(0.5)),
  );
  using binding = program.bind({ a: a!, b: b! }, { y: y! });
  binding.runSync();
  const own = median(await timed(repeats, () => binding.run()));
  const theirs = await peer?.ask({ op: "matmul", size, repeats });
  report(
    `matrix product ${size} x ${size} x ${size}`,
    own,
    (seconds) => `${((2 * size ** 3) / seconds / 1e9).toFixed(0)} GFLOP/s`,
    theirs && median(theirs.seconds),
  );
}

const model = new Gpt2(config);
using weights = Weights.initialize(runtime, model, 1);
{
  const context = smoke ? 64 : 512;
  const tokens = smoke ? 8 : 64;
  using decoder = await Decoder.create(model, weights, { batch: 1, capacity: smoke ? 128 : 1024 });
  await decoder.prefill([Array.from({ length: context }, (_, i) => (i * 7919) % config.vocabSize)]);
  await decoder.step([1]);
  const own = median(await timed(tokens, () => decoder.step([1])));
  const theirs = await peer?.ask({ op: "decode", config, context, tokens });
  report(
    `GPT-2 ${smoke ? "tiny" : "124M"} decoding at ${context} tokens of context`,
    own,
    (seconds) => `${(1 / seconds).toFixed(1)} tokens/s`,
    theirs && median(theirs.seconds),
  );
}

{
  const [batch, sequence, repeats] = smoke ? [2, 32, 2] : [4, 256, 5];
  using gradients = weights.like();
  const objective = nextTokenObjective(model, { batchSize: batch, sequenceLength: sequence });
  using step = await TrainingStep.create(objective, weights, gradients);
  using optimizer = await adamW(weights, gradients);
  using norm = await GradientNorm.create(runtime, gradients);
  const inputIds = Int32Array.from({ length: batch * sequence }, (_, i) => (i * 7919) % config.vocabSize);
  const labels = inputIds.map((id) => (id * 3 + 1) % config.vocabSize);
  const parts = { passes: [] as number[], norm: [] as number[], update: [] as number[] };
  const run = async (): Promise<void> => {
    const start = performance.now();
    await step.run(tokenBatch(inputIds, labels, [batch, sequence]));
    const passed = performance.now();
    const length = await norm.measure();
    const measured = performance.now();
    await optimizer.update({ learningRate: 1e-4, gradientScale: clippingFactor(length, 1) });
    parts.passes.push(passed - start);
    parts.norm.push(measured - passed);
    parts.update.push(performance.now() - measured);
  };
  await run();
  const own = median(await timed(repeats, run));
  const peak = process.resourceUsage().maxRSS / 1024;
  const theirs = await peer?.ask({ op: "train", config, batch, sequence, repeats });
  report(
    `GPT-2 ${smoke ? "tiny" : "124M"} training step, ${batch} x ${sequence} tokens`,
    own,
    (seconds) => `${(seconds * 1000).toFixed(0)} ms`,
    theirs && median(theirs.seconds),
  );
  console.log(
    `  of which forward and backward ${median(parts.passes).toFixed(0)} ms, gradient norm ${median(parts.norm).toFixed(0)} ms, AdamW ${median(parts.update).toFixed(0)} ms`,
  );
  console.log(
    `  peak memory ${peak.toFixed(0)} MiB${theirs ? `, PyTorch ${theirs.peakMiB.toFixed(0)} MiB` : ""}`,
  );
}
peer?.stop();
