/** One training step of GPT-2 124M over 4 x 256 tokens, forward, backward, clipping and AdamW, beside PyTorch's. */
import { Gpt2, gpt2Config, gpt2Sizes } from "../src/models/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { Peer, median, options, peakMiB } from "./harness.js";
import { timedStep } from "./training-step.js";

const config = options.smoke
  ? gpt2Config({ hiddenSize: 64, numLayers: 2, numHeads: 2, vocabSize: 512, contextLength: 256, dropout: 0 })
  : gpt2Config({ ...gpt2Sizes.gpt2.config, dropout: 0, embeddingDropout: 0, attentionDropout: 0 });
const [batch, sequence, repeats] = options.smoke ? [2, 32, 2] : [4, 256, 5];
const runtime = createRuntime();
const inputIds = Int32Array.from({ length: batch * sequence }, (_, i) => (i * 7919) % config.vocabSize);
const {
  seconds: own,
  parts,
  memoryMiB: ownPeak,
} = await timedStep(runtime, new Gpt2(config), inputIds, {
  ...{ batch, sequence, warmUps: 1, repeats },
  memoryMiB: peakMiB,
});

const peer = await Peer.start(options.python, "gpt2.py", runtime.threads);
const torch = await peer?.ask({ op: "train", config, batch, sequence, repeats });
peer?.stop();

const milliseconds = (seconds: number) => `${(seconds * 1000).toFixed(0)} ms`;
console.log(
  `  lineage           ${milliseconds(own)}, peak memory ${ownPeak.toFixed(0)} MiB: forward and backward ${parts["forward and backward"].toFixed(0)} ms, ` +
    `gradient norm ${parts.norm.toFixed(0)} ms, AdamW ${parts.update.toFixed(0)} ms`,
);
console.log(
  torch
    ? `  PyTorch ${peer!.version}    ${milliseconds(median(torch.seconds))}, peak memory ${torch.peakMiB.toFixed(0)} MiB: ${(median(torch.seconds) / own).toFixed(2)}x its speed`
    : "  PyTorch is not here",
);
