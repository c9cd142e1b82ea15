/**
 * Med-PaLM, Singhal et al. 2022, "Large Language Models Encode Clinical Knowledge".
 *
 * The claim in miniature: instruction prompt tuning aligns a model that follows instructions with medical questions. A soft
 * prompt alone is learned, on a frozen model, and stands before the hard prompt of instruction and question. It beats examples
 * in the prompt and comes near to tuning the whole network, with a thousandth of its numbers. Self-consistency is beside it.
 * Questions are PubMedQA's, with the authors' conclusion; the baseline is the same model asked without examples.
 *
 * It does not show on a LLaMA of 3M parameters: the soft prompt leaves its answers as they were, and the whole network learns
 * no more than which answer is the most frequent. Prompts need scale, as Lester et al. 2021 say.
 *
 *   node dist/recipes/med-palm.js                 instruction-tunes a small LLaMA on abstracts first
 *   node dist/recipes/med-palm.js --model MODEL   a decoder's folder or .gguf, such as SmolLM2-135M-Instruct
 *   also [--data FOLDER] [--out FOLDER] [--scale X] [--threads N] [--smoke]
 */
import path from "node:path";
import { loadForInference, loadModel } from "../src/checkpoints/index.js";
import { selfConsistency } from "../src/evaluation/index.js";
import { generateText } from "../src/generation/index.js";
import { type CausalLm, type WeightSet, countParameters } from "../src/nn/index.js";
import { nextTokenObjective } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { trainOptions } from "../src/tasks/index.js";
import { loadAdapted } from "../src/tasks/train-adapter.js";
import type { Tokenizer } from "../src/tokenizers/index.js";
import { AnswerSource, answerRow, learn } from "./adapters.js";
import { answers, medicalDecoder, medicalStart, rowLength, wordAccuracy, wordPrompt } from "./medical.js";
import { percent, plot, printTable, recipeOptions } from "./recipe.js";

const options = recipeOptions("med-palm", { model: { type: "string" } });
const { out, smoke, scale, threads } = options;
const runtime = createRuntime({ threads });
const { questions, base } = await medicalStart(runtime, options);
const batchSize = options.model === undefined ? 8 : 4;
const steps = smoke ? 10 : Math.round((options.model === undefined ? 120 : 40) * scale);

const rowsOf = (tokenizer: Tokenizer) =>
  questions.training.map((one) => answerRow(tokenizer, wordPrompt(one), ` ${one.answer}`, rowLength));
const accuracy = async (model: CausalLm, weights: WeightSet, tokenizer: Tokenizer, before?: string) => {
  using decoder = await medicalDecoder(model, weights);
  return await wordAccuracy(decoder, tokenizer, questions.test, before);
};

const table: string[][] = [];
const add = (label: string, learned: number, share: number): void => {
  table.push([label, learned.toLocaleString("en-US"), percent(share)]);
};
const most = Math.max(
  ...answers.map((answer) => questions.test.filter((one) => one.answer === answer).length),
);
add("the most frequent answer", 0, most / questions.test.length);

// ---- Frozen: without and with examples --------------------------------------------------------------------------------

{
  const { model, weights, tokenizer } = await loadForInference(runtime, base);
  add("no examples", 0, await accuracy(model, weights, tokenizer));
  const shots = answers.flatMap((answer) =>
    questions.training.filter((one) => one.answer === answer).slice(0, 1),
  );
  const before = shots.map((one) => `${wordPrompt(one)} ${one.answer}\n\n`).join("");
  const room = Math.min(512, model.config.contextLength) - tokenizer.encode(before).length;
  add("three examples", 0, room > rowLength ? await accuracy(model, weights, tokenizer, before) : NaN);
  weights.dispose();
}

// ---- Instruction prompt tuning: the soft prompt alone learns ----------------------------------------------------------

const curves: { label: string; points: { step: number; loss: number }[] }[] = [];
{
  using adapted = await loadAdapted(runtime, base, {
    ...trainOptions.parse({ data: "stories" }),
    adapter: "prompt",
    virtualTokens: 20,
    promptInit: "Answer the medical question by yes, no or maybe.",
  });
  const { model, weights, tokenizer, adapter } = adapted;
  const learned = [...adapter.parameters.values()].reduce((sum, { size }) => sum + size, 0);
  const { losses } = await learn("soft prompt", {
    objective: nextTokenObjective(model, { batchSize, sequenceLength: rowLength }),
    weights,
    source: new AnswerSource(rowsOf(tokenizer), { batchSize, length: rowLength, seed: 1 }),
    steps,
    learningRate: 2e-2,
  });
  curves.push({ label: "soft prompt", points: losses });
  add("soft prompt", learned, await accuracy(model, weights, tokenizer));
  using decoder = await medicalDecoder(model, weights, 8);
  const writer = { decoder, tokenizer };
  let right = 0;
  for (const one of questions.test) {
    const { answer } = await selfConsistency(
      async (prompt, stream) =>
        (await generateText(writer, prompt, { stream, temperature: 0.7, maxNewTokens: 3 }).all()).text,
      wordPrompt(one),
      { samples: smoke ? 3 : 8, extract: (text) => /yes|no|maybe/i.exec(text)?.[0].toLowerCase() ?? null },
    );
    if (answer === one.answer) right++;
  }
  add("soft prompt, self-consistency", learned, right / questions.test.length);
  weights.dispose();
}

// ---- The whole network ------------------------------------------------------------------------------------------------

if (options.model === undefined) {
  const { model, weights, tokenizer } = await loadModel(runtime, base, { kind: "decoder" });
  const { losses } = await learn("whole network", {
    objective: nextTokenObjective(model, { batchSize, sequenceLength: rowLength }),
    weights,
    source: new AnswerSource(rowsOf(tokenizer), { batchSize, length: rowLength, seed: 1 }),
    steps,
    learningRate: 5e-4,
  });
  curves.push({ label: "whole network", points: losses });
  add("whole network", countParameters(model), await accuracy(model, weights, tokenizer));
  weights.dispose();
}

console.log(`${questions.name}: ${questions.test.length} held-out questions`);
printTable(["method", "learns", "right"], table);
await plot(path.join(out, "loss.svg"), `Loss of the answers of ${questions.name}`, curves);
