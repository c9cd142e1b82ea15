/**
 * GPT-2 124M writing token by token after 512 tokens, greedily, beside PyTorch and beside transformers.js on the same
 * weights exported as ONNX with their cache; and the floor: the time that reading the weights once takes.
 */
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { writeJson } from "../src/base/files.js";
import { Decoder, generate } from "../src/generation/index.js";
import { Gpt2, gpt2Config, gpt2Sizes, systems } from "../src/models/index.js";
import { saveDecoderOnnx } from "../src/checkpoints/index.js";
import { Weights } from "../src/nn/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { memoryBandwidth } from "./bandwidth.js";
import { type Answer, Peer, inOwnProcess, median, options, peakMiB } from "./harness.js";

const config = options.smoke
  ? gpt2Config({ hiddenSize: 64, numLayers: 2, numHeads: 2, vocabSize: 512, contextLength: 256, dropout: 0 })
  : gpt2Config({ ...gpt2Sizes.gpt2.config, dropout: 0, embeddingDropout: 0, attentionDropout: 0 });
const context = options.smoke ? 64 : 512;
const tokens = options.smoke ? 8 : 64;
const prompt = Array.from({ length: context }, (_, i) => (i * 7919) % (config.vocabSize - 1));
const runtime = createRuntime();
const model = new Gpt2(config);
using weights = Weights.initialize(runtime, model, 1);

/** Seconds between one token and the next, the first of which also reads the prompt. */
async function gaps(stream: AsyncGenerator<unknown>): Promise<number[]> {
  const times: number[] = [];
  while (!(await stream.next()).done) times.push(performance.now());
  return times.slice(1).map((time, index) => (time - times[index]!) / 1000);
}

const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-bench-"));
try {
  using decoder = await Decoder.create({ model, weights, capacity: config.contextLength });
  const own = await gaps(generate(decoder, [prompt], { temperature: 0, maxNewTokens: tokens + 1 }));
  const ownPeak = peakMiB();

  const peer = await Peer.start(options.python, "gpt2.py", runtime.threads);
  const torch = await peer?.ask({ op: "decode", config, context, tokens });
  peer?.stop();

  await mkdir(path.join(folder, "gpt2", "onnx"), { recursive: true });
  await saveDecoderOnnx(path.join(folder, "gpt2", "onnx", "model.onnx"), model, weights);
  await writeJson(path.join(folder, "gpt2", "config.json"), {
    ...systems.gpt2.config.write(model.config),
    "transformers.js_config": { use_external_data_format: true },
  });
  const transformersJs = await inOwnProcess<Answer>("transformers-js.js", {
    folder,
    prompt,
    tokens,
    threads: runtime.threads,
  });

  const floor = (4 * weights.layout.size) / (await memoryBandwidth(runtime, options.smoke));

  const rate = (seconds: readonly number[]) => 1 / median(seconds);
  console.log(
    `  lineage           ${rate(own).toFixed(1)} tokens/s, peak memory ${ownPeak.toFixed(0)} MiB; ` +
      `${((100 * floor) / median(own)).toFixed(0)}% of the floor, ${(1 / floor).toFixed(1)} tokens/s`,
  );
  for (const [name, answer] of [
    [`PyTorch ${peer?.version ?? ""}`, torch],
    ["transformers.js", transformersJs],
  ] as const) {
    console.log(
      `  ${name.padEnd(17)} ` +
        (answer
          ? `${rate(answer.seconds).toFixed(1)} tokens/s, peak memory ${answer.peakMiB.toFixed(0)} MiB: ${(rate(own) / rate(answer.seconds)).toFixed(2)}x its speed`
          : "is not here"),
    );
  }
} finally {
  await rm(folder, { recursive: true });
}
