/**
 * What the choices of two papers are worth: GPT-3's layers over a band beside dense ones at long context, in training, in a forward pass
 * and in prompts that a decoder reads in chunks, and PaLM's parallel layers beside layers one after the other. Each network runs in a process of its own.
 */
import type { BlocksQuestion } from "./blocks-own.js";
import { type Answer, inOwnProcess, median, options } from "./harness.js";

async function compare(
  title: string,
  networks: readonly [BlocksQuestion["network"], BlocksQuestion["network"]],
  question: Omit<BlocksQuestion, "network">,
): Promise<void> {
  const answers = [];
  for (const network of networks)
    answers.push(await inOwnProcess<Answer>("blocks-own.js", { ...question, network }));
  const [own, other] = answers;
  if (!own || !other) {
    process.exitCode = 1;
    return;
  }
  const said = ({ seconds, peakMiB }: Answer): string =>
    `${(median(seconds) * 1000).toFixed(0)} ms, ${peakMiB.toFixed(0)} MiB`;
  console.log(
    `  ${title.padEnd(48)} ${networks[0]} ${said(own)}; ${networks[1]} ${said(other)}: ${(median(other.seconds) / median(own.seconds)).toFixed(2)}x its speed`,
  );
}

const small = { hiddenSize: 64, numLayers: 2, repeats: 2, batch: 1 };
const large = { hiddenSize: 256, numLayers: 4, repeats: 3, batch: 1 };
const shape = options.smoke ? small : large;
for (const sequence of options.smoke ? [4096] : [4096, 16_384]) {
  // The scores of all pairs at 16,384 positions fill a gigabyte a head, and training keeps them.
  const trained = sequence > 4096 ? { ...small, sequence } : { ...shape, sequence };
  await compare(`GPT-3, training step at ${sequence}`, ["band", "dense"], { ...trained, pass: "training" });
  await compare(`GPT-3, forward pass at ${sequence}`, ["band", "dense"], {
    ...shape,
    sequence,
    pass: "forward",
  });
  await compare(`GPT-3, a prompt of ${sequence}`, ["band", "dense"], { ...shape, sequence, pass: "prompt" });
}
const palm = options.smoke
  ? { ...small, sequence: 64 }
  : { hiddenSize: 768, numLayers: 12, repeats: 5, batch: 4, sequence: 256 };
await compare("PaLM, training step", ["parallel", "serial"], { ...palm, pass: "training" });
await compare("PaLM, forward pass", ["parallel", "serial"], { ...palm, pass: "forward" });
