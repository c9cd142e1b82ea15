/** One training step of GPT-2 124M over 4 x 256 tokens, forward, backward, clipping and AdamW, beside PyTorch's. */
import { tokenBatch } from "../src/data/index.js";
import { Gpt2, gpt2Config, gpt2Sizes } from "../src/models/index.js";
import { Weights } from "../src/nn/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { GradientNorm, TrainingStep, adamW, clippingFactor } from "../src/training/index.js";
import { nextTokenObjective } from "../src/objectives/index.js";
import { Peer, median, options, peakMiB, timed } from "./harness.js";

const config = options.smoke
  ? gpt2Config({ hiddenSize: 64, numLayers: 2, numHeads: 2, vocabSize: 512, contextLength: 256, dropout: 0 })
  : gpt2Config({ ...gpt2Sizes.gpt2.config, dropout: 0, embeddingDropout: 0, attentionDropout: 0 });
const [batch, sequence, repeats] = options.smoke ? [2, 32, 2] : [4, 256, 5];
const runtime = createRuntime();
const model = new Gpt2(config);
using weights = Weights.initialize(runtime, model, 1);
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
const ownPeak = peakMiB();

const peer = await Peer.start(options.python, "gpt2.py", runtime.threads);
const torch = await peer?.ask({ op: "train", config, batch, sequence, repeats });
peer?.stop();

const milliseconds = (seconds: number) => `${(seconds * 1000).toFixed(0)} ms`;
console.log(
  `  lineage           ${milliseconds(own)}, peak memory ${ownPeak.toFixed(0)} MiB: forward and backward ${median(parts.passes).toFixed(0)} ms, ` +
    `gradient norm ${median(parts.norm).toFixed(0)} ms, AdamW ${median(parts.update).toFixed(0)} ms`,
);
console.log(
  torch
    ? `  PyTorch ${peer!.version}    ${milliseconds(median(torch.seconds))}, peak memory ${torch.peakMiB.toFixed(0)} MiB: ${(median(torch.seconds) / own).toFixed(2)}x its speed`
    : "  PyTorch is not here",
);
