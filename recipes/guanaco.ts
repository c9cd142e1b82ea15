/**
 * Guanaco, Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs".
 *
 * The claims in miniature: adapters on every linear layer of a base in 4-bit NormalFloat learn as well as those of a base in
 * full precision, and as full fine-tuning, in a fraction of the memory; double quantisation costs nothing; plain 4-bit numbers
 * cost more. Each model then plays the others: of two, the one that finds a held-out text likelier wins, and the games give
 * Elo's ratings. The baseline is the whole model, fine-tuned.
 *
 *   node dist/recipes/guanaco.js                  trains a small LLaMA on the embedded stories first
 *   node dist/recipes/guanaco.js --model MODEL    a checkpoint folder in full precision
 *   also [--data FOLDER] [--out FOLDER] [--scale X] [--threads N] [--smoke]
 */
import { existsSync } from "node:fs";
import path from "node:path";
import { formatBytes } from "../src/base/memory.js";
import { loadForInference, loadModel, saveModel } from "../src/checkpoints/index.js";
import { DataLoader, evaluationBatches } from "../src/data/index.js";
import { type Game, bootstrap, bradleyTerry, elo } from "../src/evaluation/index.js";
import { Llama, llamaConfig, systems } from "../src/models/index.js";
import { Weights, addLora, countParameters } from "../src/nn/index.js";
import { nextTokenObjective, withAdapter } from "../src/objectives/index.js";
import type { QuantizationScheme } from "../src/quantization/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { EvaluationStep, evaluate } from "../src/training/index.js";
import { learn } from "./adapters.js";
import { storyTokens, trainDecoder } from "./decoders.js";
import { plot, printTable, recipeOptions, shakespeareOrStories } from "./recipe.js";

const options = recipeOptions("guanaco", { model: { type: "string" } });
const { out, smoke, scale, threads } = options;
const base = options.model ?? path.join(out, "base");
const runtime = createRuntime({ threads });
const rows = { batchSize: 8, sequenceLength: smoke ? 32 : 128 };
const steps = smoke ? 10 : Math.round(60 * scale);

// ---- A base that knows the stories -----------------------------------------------------------------------------------

if (options.model === undefined && !existsSync(path.join(base, "model.safetensors"))) {
  const tokens = storyTokens({ count: smoke ? 400 : 6000, vocabSize: smoke ? 512 : 2048, heldOut: 0.02 });
  const model = new Llama(
    llamaConfig({
      vocabSize: tokens.tokenizer.vocabSize,
      ...(smoke
        ? { numLayers: 1, hiddenSize: 128, numHeads: 2 }
        : { numLayers: 3, hiddenSize: 256, numHeads: 4 }),
      contextLength: 128,
      tieEmbeddings: true,
    }),
  );
  using weights = Weights.initialize(runtime, model, 1);
  const run = { steps: smoke ? 8 : Math.round(250 * scale), evalEvery: smoke ? 4 : 50, learningRate: 2e-3 };
  await trainDecoder({ label: "base", model, weights, tokens, ...rows, ...run });
  await saveModel(base, { system: systems.llama, model, weights, tokenizer: tokens.tokenizer });
}

// ---- What it is fine-tuned on ----------------------------------------------------------------------------------------

const { name, text } = shakespeareOrStories(options);
const { tokenizer } = await loadForInference(runtime, base);
const ids = Int32Array.from(tokenizer.encode(text.slice(0, smoke ? 40_000 : 600_000)));
const split = Math.floor(ids.length * 0.9);
const training = ids.subarray(0, split);
const heldOut = ids.subarray(split, split + (smoke ? 400 : 12_000));

// ---- Four ways, and one without double quantisation -----------------------------------------------------------------

interface Result {
  readonly label: string;
  /** Bytes of the base, and of what learns with its gradient and two moments. */
  readonly memory: number;
  readonly trained: number;
  readonly seconds: number;
  readonly before: number;
  readonly after: number;
  readonly losses: { step: number; loss: number }[];
  /** Loss of each held-out row. */
  readonly perRow: readonly number[];
}

const source = () => new DataLoader(training, { ...rows, seed: 1 }, name);
const ofHeldOut = () => evaluationBatches(heldOut, { ...rows, batchSize: 1 });

async function fineTuned(label: string, scheme?: QuantizationScheme | "full"): Promise<Result> {
  const full = scheme === "full";
  const loaded = full
    ? await loadModel(runtime, base, { kind: "decoder" })
    : await loadForInference(runtime, base, { quantize: scheme });
  const { model } = loaded;
  const adapter = full ? undefined : addLora(model, { rank: 16, alpha: 32, targets: "all-linear" });
  const weights = full ? (loaded.weights as Weights) : Weights.partlyFrozen(model, loaded.weights, 1);
  const plain = nextTokenObjective(model, rows);
  const objective = adapter ? withAdapter(plain, adapter) : plain;
  const measured = nextTokenObjective(model, { sequenceLength: "sequence" });
  const before = await evaluate(measured, weights, ofHeldOut());
  const { losses, seconds } = await learn(label, {
    objective,
    weights,
    source: source(),
    steps,
    learningRate: full ? 1e-3 : 4e-3,
  });
  const after = await evaluate(measured, weights, ofHeldOut());
  using evaluation = await EvaluationStep.create(measured, weights);
  const perRow: number[] = [];
  for (const batch of ofHeldOut())
    perRow.push((await evaluation.run(batch))["tokens"]! / batch.counts["tokens"]!);
  const trained = adapter
    ? [...adapter.parameters.values()].reduce((sum, { size }) => sum + size, 0)
    : countParameters(model);
  const frozen = "byteLength" in loaded.weights ? loaded.weights.byteLength : 0;
  const result = {
    label,
    memory: frozen + 16 * trained,
    trained,
    seconds,
    before: before.loss,
    after: after.loss,
    losses,
    perRow,
  };
  weights.dispose();
  if (!full) loaded.weights.dispose();
  return result;
}

const results = [
  await fineTuned("full fine-tuning", "full"),
  await fineTuned("LoRA, float32"),
  await fineTuned("QLoRA, 4-bit numbers", { bits: 4, blockSize: 64, symmetric: true }),
  await fineTuned("QLoRA, NF4", { bits: "nf4" }),
  await fineTuned("QLoRA, NF4, double", { bits: "nf4", double: true }),
];

printTable(
  ["method", "learns", "memory", "s/step", "before", "held-out loss"],
  results.map(({ label, trained, memory, seconds, before, after }) => [
    label,
    trained.toLocaleString("en-US"),
    formatBytes(memory),
    seconds.toFixed(2),
    before.toFixed(4),
    after.toFixed(4),
  ]),
);

// ---- The tournament ---------------------------------------------------------------------------------------------------

const games: Game[] = results.flatMap((a, index) =>
  results.slice(index + 1).flatMap((b) =>
    a.perRow.map((loss, row): Game => ({
      a: a.label,
      b: b.label,
      winner: loss < b.perRow[row]! ? "a" : "b",
    })),
  ),
);
const ratings = elo(games);
const strengths = bradleyTerry(games);
const intervals = bootstrap(games, (drawn) => bradleyTerry(drawn));
printTable(
  ["player", "Elo", "strength", "95% interval"],
  results.map(({ label }) => {
    const { low, high } = intervals.get(label)!;
    return [
      label,
      ratings.get(label)!.toFixed(0),
      strengths.get(label)!.toFixed(2),
      `${low.toFixed(2)} to ${high.toFixed(2)}`,
    ];
  }),
);
await plot(
  path.join(out, "loss.svg"),
  `Fine-tuning on ${name}: training loss`,
  results.map(({ label, losses }) => ({ label, points: losses })),
);
