/**
 * 1,000 multiple-choice rows after the same five examples: likelihoods of four answers each, beside EleutherAI's
 * lm-evaluation-harness on PyTorch with the same weights, and beside llama.cpp with the same GGUF.
 *
 *   npm run bench -- evaluation [--python PATH]      a Python that has lm_eval, torch and transformers
 *   node dist/bench/evaluation.js --rows 200 --size 110m
 *   node dist/bench/evaluation.js --only letters --slow-rows 100   the slow ways answer 100 of the rows
 *   node dist/bench/evaluation.js --smoke            seconds: checks that everything runs
 *
 * Twice: with letters to choose from, one token each, whose likelihoods every engine has from one reading of a row; and with
 * whole answers of several tokens. llama.cpp is asked in two ways: once as its own `llama-perplexity --multiple-choice` does, a
 * row with its answers in one batch, and once with the examples kept for all rows and as many rows in a batch as it takes.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { Random } from "../src/base/random.js";
import { loadForInference, saveGguf, saveModel } from "../src/checkpoints/index.js";
import { type Plan, type TaskInput, planTask, runPlan, scoresOf, taskOf } from "../src/evaluation/index.js";
import { Decoder } from "../src/generation/index.js";
import { Llama, llamaConfig, systems } from "../src/models/index.js";
import { Weights } from "../src/nn/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { trainByteLevelBpe } from "../src/tokenizers/index.js";
import { type Answer, Peer } from "./harness.js";
import { LlamaCppModel, llamaCppFolder } from "./llama-cpp.js";
import { llamaCppLikelihoods, llamaCppShape, sharedLength } from "./llama-cpp-evaluation.js";

const { values: options } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    rows: { type: "string" },
    size: { type: "string", default: "20m" },
    folder: { type: "string", default: "runs/bench-evaluation" },
    threads: { type: "string" },
    /** Rows that llama.cpp is asked row by row, and lm_eval at all: they take many times as long. */
    "slow-rows": { type: "string" },
    only: { type: "string" },
    smoke: { type: "boolean", default: false },
  },
});
const { smoke } = options;
const threads = Number(options.threads ?? process.env["LINEAGE_THREADS"] ?? os.availableParallelism());
const count = Number(options.rows ?? (smoke ? 8 : 1000));
const slowCount = Math.min(count, Number(options["slow-rows"] ?? count));
const shots = 5;

// ---- Rows ---------------------------------------------------------------------------------------------------------

const random = new Random(7);
const one = <T>(from: readonly T[]): T => from[random.integer(from.length)]!;
const people = [
  "the doctor",
  "a young farmer",
  "my neighbour",
  "the old teacher",
  "her sister",
  "the captain",
];
const verbs = ["carried", "forgot", "repaired", "painted", "borrowed", "found"];
const things = [
  "a wooden boat",
  "the blue umbrella",
  "an old clock",
  "two heavy books",
  "a silver key",
  "the map",
];
const places = [
  "near the river",
  "in the kitchen",
  "behind the school",
  "at the station",
  "under the bridge",
];

function row(): object {
  const facts = [...random.permutation(things.length)].slice(0, 4).map((index) => things[index]!);
  const answer = random.integer(4);
  const who = one(people);
  const text = `${one(["Yesterday", "Last summer", "One morning"])} ${who} ${one(verbs)} ${facts[answer]} ${one(places)}, and ${one(people)} ${one(verbs)} a red hat ${one(places)}.`;
  return { text, who, options: facts, answer };
}
const lines = (rows: readonly object[]): string => rows.map((each) => JSON.stringify(each)).join("\n");
mkdirSync(options.folder, { recursive: true });
const rows = Array.from({ length: count }, row);
writeFileSync(path.join(options.folder, "test.jsonl"), lines(rows));
writeFileSync(path.join(options.folder, "train.jsonl"), lines(Array.from({ length: shots }, row)));

const listed = `{{ text }} What did {{ who }} have?\\nA. {{ options[0] }}\\nB. {{ options[1] }}\\nC. {{ options[2] }}\\nD. {{ options[3] }}\\nAnswer:`;
const kinds = {
  letters: {
    prompt: listed.replaceAll("\\n", "\n"),
    choices: ["A", "B", "C", "D"],
    list: '{{["A", "B", "C", "D"]}}',
  },
  answers: {
    prompt: "{{ text }} What did {{ who }} have?\nAnswer:",
    choices: '{{ options | join("\\n") }}',
    list: "{{options}}",
  },
};

// ---- Model --------------------------------------------------------------------------------------------------------

const sizes: Readonly<Record<string, { hiddenSize: number; numLayers: number; numHeads: number }>> = {
  smoke: { hiddenSize: 64, numLayers: 2, numHeads: 4 },
  "20m": { hiddenSize: 384, numLayers: 8, numHeads: 6 },
  "110m": { hiddenSize: 768, numLayers: 12, numHeads: 12 },
};
const shape = sizes[smoke ? "smoke" : options.size];
if (!shape) throw new Error(`--size must be one of ${Object.keys(sizes).join(", ")}`);
const folder = path.resolve(options.folder, smoke ? "smoke" : options.size);
const gguf = `${folder}.gguf`;
{
  const tokenizer = trainByteLevelBpe(
    rows.map((each) => JSON.stringify(each)),
    { vocabSize: 480 },
  );
  // A vocabulary as wide as those of real models, of which the tokenizer uses the first ids.
  const model = new Llama(
    llamaConfig({
      vocabSize: smoke ? 512 : 32_000,
      contextLength: 1024,
      tieEmbeddings: true,
      initializerRange: 0.05,
      ...shape,
    }),
  );
  using weights = Weights.initialize(createRuntime({ threads }), model, 1);
  const made = { system: systems.llama, model, weights, tokenizer };
  await saveModel(folder, made);
  await saveGguf(gguf, made, { format: "F32", name: "bench" });
}

// ---- Engines ------------------------------------------------------------------------------------------------------

interface Measured {
  readonly seconds: number;
  /** Processor time, which other work on the machine changes little. */
  readonly cpuSeconds: number;
  readonly logLikelihoods: readonly (readonly number[])[];
}

const cpuSecondsSince = (before: NodeJS.CpuUsage): number => {
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
};

async function ours(input: TaskInput): Promise<Measured & { plan: Plan }> {
  const loaded = await loadForInference(createRuntime({ threads }), folder);
  const task = taskOf("bench", input, options.folder);
  const started = performance.now();
  const planning = process.cpuUsage();
  const plan = await planTask(task, loaded.tokenizer, 1024, { shots });
  let seconds = (performance.now() - started) / 1000;
  let cpuSeconds = cpuSecondsSince(planning);
  using decoder = await Decoder.create({ ...loaded, capacity: plan.capacity, branching: true });
  const warm = await planTask(task, loaded.tokenizer, 1024, { shots, limit: 2 });
  await runPlan({ ...loaded, decoder }, warm);
  decoder.forget();
  const begun = performance.now();
  const running = process.cpuUsage();
  const predictions = await runPlan({ ...loaded, decoder }, plan);
  seconds += (performance.now() - begun) / 1000;
  cpuSeconds += cpuSecondsSince(running);
  const { acc } = scoresOf(predictions);
  console.log(`  accuracy ${acc!.value.toFixed(3)}`);
  loaded.weights.dispose();
  return {
    seconds,
    cpuSeconds,
    plan,
    logLikelihoods: predictions.map((each) => (each.kind === "choices" ? each.logLikelihoods : [])),
  };
}

/** @param keep how many tokens all rows begin with are read once for all of them; 0 as llama.cpp's own tool does it */
function theirs(plan: Plan, keep: number): Measured {
  using model = LlamaCppModel.load(gguf, { ...llamaCppShape, threads, contextLength: 2048 });
  llamaCppLikelihoods(model, { ...plan, asked: plan.asked.slice(0, 2) }, keep);
  const [started, before] = [performance.now(), process.cpuUsage()];
  const logLikelihoods = llamaCppLikelihoods(model, plan, keep);
  const seconds = (performance.now() - started) / 1000;
  return { seconds, cpuSeconds: cpuSecondsSince(before), logLikelihoods };
}

const differ = (a: Measured, b: Measured): number =>
  Math.max(
    ...a.logLikelihoods.flatMap((row, index) =>
      row.map((value, place) => Math.abs(value - b.logLikelihoods[index]![place]!)),
    ),
  );

// ---- Measurement --------------------------------------------------------------------------------------------------

const peer = await Peer.start(options.python, "evaluation.py", threads);
const load = os.loadavg().map((value) => value.toFixed(1));
console.log(
  `${os.cpus()[0]?.model ?? "?"}, ${threads} threads, load ${load[0]}; ${count} rows after ${shots} examples, ${options.size}${smoke ? "; smoke run" : ""}\n` +
    `${peer ? `lm_eval ${peer.version}` : "lm_eval is not here"}; ${llamaCppFolder ? "llama.cpp" : "llama.cpp is not here"}`,
);
for (const [kind, { prompt, choices, list }] of Object.entries(kinds)) {
  if (options.only !== undefined && options.only !== kind) continue;
  console.log(`\n${kind}`);
  const input: TaskInput = {
    data: "test.jsonl",
    prompt,
    choices: typeof choices === "string" ? choices : [...choices],
    target: "{{ answer }}",
    shots: { data: "train.jsonl", draw: "first" },
  };
  const own = await ours(input);
  const slow: Plan = { ...own.plan, asked: own.plan.asked.slice(0, slowCount) };
  /** @param other whose likelihoods are compared with lineage's */
  const say = (
    name: string,
    { seconds, cpuSeconds, logLikelihoods: { length } }: Measured,
    other?: Measured,
  ): void => {
    const ratio = other
      ? `${((cpuSeconds / length / own.cpuSeconds) * count).toFixed(2)} times lineage's for a row; likelihoods differ by ${differ(other, own).toExponential(1)} at most`
      : "";
    console.log(
      `  ${name.padEnd(26)}${String(length).padStart(5)} rows  ${seconds.toFixed(2).padStart(8)} s  ${cpuSeconds.toFixed(2).padStart(8)} s of processor time  ${(length / cpuSeconds).toFixed(1).padStart(7)} rows/s  ${ratio}`,
    );
  };
  say("lineage", own);
  if (peer) {
    const request = {
      model: folder,
      folder: options.folder,
      rows: slowCount,
      shots,
      prompt,
      choices: list,
      batch: 16,
    };
    const answer = (await peer.ask(request)) as Answer & Pick<Measured, "cpuSeconds" | "logLikelihoods">;
    const measured = { ...answer, seconds: answer.seconds[0]! };
    say("lm_eval, batches of 16", measured, measured);
  }
  if (llamaCppFolder) {
    const row = theirs(slow, 0);
    say("llama.cpp, row by row", row, row);
    const kept = theirs(own.plan, sharedLength(own.plan));
    say("llama.cpp, examples kept", kept, kept);
  }
}
peer?.stop();
