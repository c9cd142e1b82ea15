/**
 * GPT-2 (Radford et al. 2019) on real text, beside nanoGPT's figures.
 *
 * The claim in miniature: next-token prediction on raw text alone teaches a Transformer the text's language. The data,
 * the character tokens and the 90/10 split are those of nanoGPT's `shakespeare_char`, so that the held-out loss can be
 * read beside its published ones: 1.4697 for 10.65M parameters on a GPU (5,000 steps of 64 x 256 tokens), 1.88 for its
 * small CPU run (2,000 steps of 12 x 64 tokens). The baseline is the same network before it has learned anything.
 *
 *   node dist/recipes/gpt2.js path/to/tinyshakespeare.txt [steps] [folder]
 */
import { readFileSync } from "node:fs";
import { train } from "../src/cli/train.js";

const [, , data, steps = "1000", out = "runs/gpt2-shakespeare"] = process.argv;
if (data === undefined) {
  console.error("Which text? Give the path of tinyshakespeare.txt, or of any UTF-8 text.");
  process.exit(1);
}

await train(
  {
    data,
    tokenizer: "characters",
    // nanoGPT's 10.65M-parameter network, without its dropout: a CPU run of minutes sees no text twice.
    layers: 6,
    hidden: 384,
    heads: 6,
    context: 256,
    batch: 8,
    steps: Number(steps),
    learningRate: 1e-3,
    warmup: 50,
    evalEvery: 200,
  },
  { out },
);

const records = readFileSync(`${out}/metrics.jsonl`, "utf8").trim().split("\n");
const held = records
  .map((line) => JSON.parse(line) as { step: number; validationLoss?: number })
  .filter(({ validationLoss }) => validationLoss !== undefined);
const characters = new Set(readFileSync(data, "utf8")).size;
console.log(
  `\nheld-out loss by step, beside ${Math.log(characters).toFixed(2)} for knowing nothing, nanoGPT's 1.88 (CPU) and 1.4697 (GPU):`,
);
for (const { step, validationLoss } of held)
  console.log(`  step ${String(step).padStart(5)}  ${validationLoss!.toFixed(4)}`);
