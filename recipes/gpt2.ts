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
import path from "node:path";
import { saveModel } from "../src/checkpoints/index.js";
import { DataLoader, evaluationBatches } from "../src/data/index.js";
import { Decoder, generate } from "../src/generation/index.js";
import { Gpt2, gpt2Config, systems } from "../src/models/index.js";
import { Weights, countParameters } from "../src/nn/index.js";
import { nextTokenObjective } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { characterTokenizer } from "../src/tokenizers/index.js";
import { type Curve, Trainer, adamW, evaluate, schedule } from "../src/training/index.js";
import { millions, plot, printTable, recipeOptions, shakespeareOrStories } from "./recipe.js";

const options = recipeOptions("gpt2-shakespeare");
const { out, smoke, scale, threads } = options;

// nanoGPT's 10.65M-parameter network, without its dropout: a CPU run of minutes sees no text twice.
const sizes = smoke
  ? { numLayers: 2, hiddenSize: 64, numHeads: 2 }
  : { numLayers: 6, hiddenSize: 384, numHeads: 6 };
const contextLength = 256;
const batchSize = 8;
const steps = smoke ? 8 : Math.round(1000 * scale);
const evalEvery = smoke ? 4 : 200;
const learningRate = 1e-3;
const seed = 1;

// ---- Data: one token a character, the last tenth held out -----------------------------------------------------------------

const { name, text } = shakespeareOrStories(options);
const tokenizer = characterTokenizer(text);
const tokens = Int32Array.from(tokenizer.encode(text));
const split = Math.floor(tokens.length * 0.9);
const training = tokens.subarray(0, split);
const heldOut = tokens.subarray(split, smoke ? split + 2048 : undefined);

// ---- Model ---------------------------------------------------------------------------------------------------------------

const runtime = createRuntime({ threads });
const model = new Gpt2(gpt2Config({ ...sizes, contextLength, vocabSize: tokenizer.vocabSize, dropout: 0 }));
using weights = Weights.initialize(runtime, model, seed);
console.log(`GPT-2 with ${millions(countParameters(model))} parameters on ${name}`);

// ---- Training: every position predicts the next token ---------------------------------------------------------------------

const rows = { batchSize, sequenceLength: contextLength };
const objective = nextTokenObjective(model, rows);
const loss = async (): Promise<number> =>
  (await evaluate(objective, weights, evaluationBatches(heldOut, rows))).loss;

const learned: { step: number; loss: number }[] = [];
const measured = [{ step: 0, loss: await loss() }];
{
  using trainer = await Trainer.create({
    objective,
    weights,
    source: new DataLoader(training, { ...rows, seed }, name),
    optimizer: (all, gradients) => adamW(all, gradients, { betas: [0.9, 0.99], weightDecay: 0.1 }),
    schedule: schedule("cosine", {
      learningRate,
      warmupSteps: smoke ? 2 : 50,
      totalSteps: steps,
      minimum: learningRate / 10,
    }),
    clipNorm: 1,
    seed,
  });
  for (let step = 1; step <= steps; step++) {
    const report = await trainer.step();
    learned.push({ step, loss: report.loss });
    if (step % evalEvery !== 0 && step !== steps) continue;
    measured.push({ step, loss: await loss() });
    console.log(`step ${step}: loss ${report.loss.toFixed(4)}, held out ${measured.at(-1)!.loss.toFixed(4)}`);
  }
}

// ---- What it learned -------------------------------------------------------------------------------------------------------

await saveModel(path.join(out, "model"), { system: systems.gpt2, model, weights, tokenizer });
const curves: Curve[] = [
  { label: "training", points: learned },
  { label: "held out", points: measured },
];
await plot(path.join(out, "loss.svg"), `GPT-2 on ${name}: loss per character`, curves);
printTable(
  [name, "held-out loss a character"],
  [
    ...measured.map(({ step, loss: value }) => [
      step === 0 ? "untrained" : `GPT-2, step ${step}`,
      value.toFixed(4),
    ]),
    ...(name === "Tiny Shakespeare"
      ? [
          ["nanoGPT's CPU run", "1.88"],
          ["nanoGPT's GPU run", "1.4697"],
        ]
      : []),
  ],
);

using decoder = await Decoder.create({ model, weights });
const prompt = tokenizer.encode(text.slice(0, 8));
const written: number[] = [];
for await (const { id } of generate(decoder, [prompt], { temperature: 0.8, maxNewTokens: 200, seed }))
  if (id !== undefined) written.push(id);
console.log(`it writes on:\n${tokenizer.decode([...prompt, ...written])}`);
