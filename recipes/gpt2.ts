/**
 * GPT-2 (Radford et al. 2019) on real text, beside nanoGPT's figures.
 *
 * The claim in miniature: next-token prediction on raw text alone teaches a Transformer the text's language. The data,
 * the character tokens and the 90/10 split are those of nanoGPT's `shakespeare_char`, so that the held-out loss can be
 * read beside its published ones: 1.4697 for 10.65M parameters on a GPU (5,000 steps of 64 x 256 tokens), 1.88 for its
 * small CPU run (2,000 steps of 12 x 64 tokens). The baseline is the same network before it has learned anything.
 *
 *   node dist/recipes/gpt2.js [--data FOLDER with tinyshakespeare.txt] [--out FOLDER] [--scale X] [--smoke]
 */
import { existsSync } from "node:fs";
import path from "node:path";
import { train } from "../src/cli/train.js";
import { Tokenizer } from "../src/tokenizers/index.js";
import { heldOutLosses, printTable, recipeOptions } from "./recipe.js";

const { data, out, smoke, scale, threads } = recipeOptions("gpt2-shakespeare");
const file = path.join(data, "tinyshakespeare.txt");
const real = existsSync(file);
const run = path.join(out, "model");

await train(
  {
    data: real ? file : "stories",
    tokenizer: "characters",
    // nanoGPT's 10.65M-parameter network, without its dropout: a CPU run of minutes sees no text twice.
    ...(smoke ? { layers: 2, hidden: 64, heads: 2 } : { layers: 6, hidden: 384, heads: 6 }),
    context: 256,
    batch: 8,
    steps: smoke ? 8 : Math.round(1000 * scale),
    learningRate: 1e-3,
    warmup: smoke ? 2 : 50,
    evalEvery: smoke ? 4 : 200,
    ...(smoke && { validation: 0.001 }),
  },
  { out: run, threads },
);

const { vocabSize } = await Tokenizer.load(run);
printTable(
  [real ? "Tiny Shakespeare" : "stories", "held-out loss a character"],
  [
    ["knowing nothing", Math.log(vocabSize).toFixed(4)],
    ...heldOutLosses(run).map(({ step, loss }) => [`GPT-2, step ${step}`, loss.toFixed(4)]),
    ...(real
      ? [
          ["nanoGPT's CPU run", "1.88"],
          ["nanoGPT's GPU run", "1.4697"],
        ]
      : []),
  ],
);
