/**
 * Alpaca (Taori et al. 2023): instructions that a model wrote itself (self-instruct, Wang et al. 2023), and fine-tuning on them.
 *
 * The claim in miniature: a list of tasks that people wrote can be grown by a model, and tuning on the grown list makes
 * the model follow instructions that it has not seen. Seed tasks are divided: most to grow from and learn, the rest held out.
 * A model (SmolLM2 with --model) writes new ones, each filtered by ROUGE-L under 0.7 with every other. Compared: the model
 * before, tuned on the seeds alone, and tuned on seeds and grown tasks, by the loss on held-out answers and by ROUGE-L.
 *
 * docs/results.md says what came out.
 *
 *   node dist/recipes/alpaca.js [--model DECODER] [--data FOLDER with self_instruct_seed_tasks.jsonl] [--out FOLDER] [--smoke]
 *
 * Without a model a small one is trained on the embedded stories, which writes no tasks of use; it shows the pipeline alone.
 */
import { existsSync, rmSync } from "node:fs";
import path from "node:path";
import { writeAtomically } from "../src/base/files.js";
import { type InstructionTask, type Message, readSeedTasks, stories } from "../src/data/index.js";
import { rougeOf } from "../src/metrics/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { growInstructions } from "../src/tasks/index.js";
import type { Curve } from "../src/training/index.js";
import { answersOf, baseModel, freshFolder, tune, writeConversations } from "./instructions.js";
import { plot, printTable, recipeOptions } from "./recipe.js";

const options = recipeOptions("alpaca", { model: { type: "string" } });
const { smoke, scale, out, threads } = options;
const settings = {
  /** Seed tasks that are held out, the last ones. */
  heldOut: smoke ? 4 : 24,
  /** New tasks to grow, and prompts for them at most. */
  grown: smoke ? 1 : 24,
  attempts: smoke ? 2 : 60,
  steps: smoke ? 2 : Math.round(24 * scale),
  maxTokens: 512,
  learningRate: 3e-4,
  /** Characters of a task that is learned or held out: long essays would take all of the time. */
  longest: 400,
  answerTokens: smoke ? 8 : 60,
};

// ---- Seeds --------------------------------------------------------------------------------------------------------

const seedFile = path.join(options.data, "self_instruct_seed_tasks.jsonl");
/** Tasks from the stories, where the file is not there. */
const ownSeeds = (): InstructionTask[] =>
  [...stories({ seed: 3, count: 24 })].map((story, index) => {
    const [first = "", second = ""] = story.split(/(?<=[.!?])\s+/);
    return {
      instruction: index % 2 === 0 ? `Say what comes after: ${first}` : `Is this happy or sad? ${first}`,
      input: "",
      output: index % 2 === 0 ? second : index % 4 === 1 ? "happy" : "sad",
      isClassification: index % 2 === 1,
    };
  });
const all = existsSync(seedFile) ? await readSeedTasks(seedFile) : ownSeeds();
const short = all.filter(({ input, output }) => input.length + output.length <= settings.longest);
const held = short.slice(-settings.heldOut);
const seeds = all.filter((task) => !held.includes(task));
console.log(`${seeds.length} seed tasks, ${held.length} held out`);

// ---- Self-instruct --------------------------------------------------------------------------------------------------

const runtime = createRuntime({ threads });
const base = await baseModel(options, options.model, runtime);

const started = performance.now();
const seedRows = seeds.map(({ instruction, input, output, isClassification }) =>
  JSON.stringify({ instruction, instances: [{ input, output }], is_classification: isClassification }),
);
const seedTasks = path.join(out, "seeds.jsonl");
await writeAtomically(seedTasks, [`${seedRows.join("\n")}\n`]);
rmSync(path.join(out, "grown.run.json"), { force: true });
const { tasks: grown, counts } = await growInstructions(
  {
    model: base,
    seeds: seedTasks,
    count: settings.grown,
    attempts: settings.attempts,
    out: path.join(out, "grown.jsonl"),
  },
  {
    runtime,
    onTask: ({ instruction, output }) => {
      console.log(`  new: ${instruction}\n       ${output.slice(0, 100)}`);
    },
  },
);
console.log(
  `grew ${counts.kept} tasks in ${((performance.now() - started) / 1000).toFixed(0)} s; left out: ${counts.similar} too like another, ${counts.unfit} unfit, ${counts.withoutInstance} without an instance`,
);

// ---- Tuning ---------------------------------------------------------------------------------------------------------

const asked = ({ instruction, input }: InstructionTask): Message[] => [
  { role: "user", content: input === "" ? instruction : `${instruction}\n\n${input}` },
];
const rowOf = (task: InstructionTask) => ({
  messages: [...asked(task), { role: "assistant", content: task.output } as const],
});
const heldFile = await writeConversations(path.join(out, "held.jsonl"), held.map(rowOf));
const overlapOf = async (adapter?: string): Promise<number> => {
  const answers = await answersOf(runtime, base, held.map(asked), {
    temperature: 0,
    maxNewTokens: settings.answerTokens,
    adapter,
  });
  return (
    answers.reduce((sum, text, row) => sum + rougeOf(text, held[row]!.output).rougeL.f, 0) / answers.length
  );
};
const learned = seeds.filter(({ input, output }) => input.length + output.length <= settings.longest);
const ways = [
  { name: "seed tasks", rows: learned },
  { name: "seed tasks and grown ones", rows: [...learned, ...grown] },
];
const files = await Promise.all(
  ways.map(({ rows }, index) => writeConversations(path.join(out, `run${index + 1}.jsonl`), rows.map(rowOf))),
);
const shared = { model: base, eval: heldFile, maxTokens: settings.maxTokens, maxLength: 256 };
// A step at a rate of nearly nothing measures the model as it is.
const before = await tune(
  runtime,
  "nothing",
  { ...shared, data: files[0]!, steps: 1, learningRate: 1e-12, out: freshFolder(out, "before") },
  1,
);
const curves: Curve[] = [];
const table = [["nothing", before.best.toFixed(3), (await overlapOf()).toFixed(3)]];
for (const [index, { name }] of ways.entries()) {
  const folder = freshFolder(out, `run${index + 1}`);
  const { best, curve } = await tune(
    runtime,
    name,
    {
      ...shared,
      data: files[index]!,
      steps: settings.steps,
      learningRate: settings.learningRate,
      out: folder,
    },
    4,
  );
  curves.push({ ...curve, points: [{ step: 0, loss: before.best }, ...curve.points] });
  table.push([name, best.toFixed(3), (await overlapOf(folder)).toFixed(3)]);
}
printTable(["tuned on", "loss on held-out answers", "ROUGE-L"], table);
await plot(path.join(out, "loss.svg"), "Loss on held-out answers", curves);
