/**
 * Flan-PaLM (Chung et al. 2022): instruction tuning on many tasks, packed, with chain-of-thought rows among them.
 *
 * The claim in miniature: what a model learns of some tasks helps with tasks that it was never tuned on, and more so the more
 * tasks there are; rows that reason in steps help where the held-out task needs steps. Tasks are small questions about words of
 * the embedded stories, each put by several templates, zero- and few-shot. Two tasks are held out. Compared on equal steps:
 * the base, then tuned on 1, 3 and 8 tasks, and on 8 without reasons. Measured: accuracy and the loss of right answers.
 *
 * docs/results.md says what came out.
 *
 *   node dist/recipes/flan-palm.js [--model DECODER, default a small one trained on the embedded stories] [--out FOLDER] [--smoke]
 */
import path from "node:path";
import { Random } from "../src/base/random.js";
import { type MixtureTask, documentsOf, exchangeOf, instructionMixture, stories } from "../src/data/index.js";
import { createRuntime } from "../src/runtime/index.js";
import type { Curve } from "../src/training/index.js";
import { answersOf, baseModel, freshFolder, tune, writeConversations } from "./instructions.js";
import { percent, plot, printTable, recipeOptions } from "./recipe.js";

const options = recipeOptions("flan-palm", { model: { type: "string" } });
const { smoke, scale, out, threads } = options;
const small = options.model === undefined;
const settings = {
  examples: smoke ? 20 : 600,
  rows: smoke ? 60 : 3000,
  questions: smoke ? 4 : 60,
  taskCounts: smoke ? [1, 3] : [1, 3, 8],
  steps: smoke ? 4 : Math.round(160 * scale),
  maxTokens: smoke ? 512 : 1024,
  learningRate: small ? 1e-3 : 2e-4,
  /** Wei et al. 2022 count 3,000 examples of a task at most. */
  cap: 3000,
};

// ---- Tasks --------------------------------------------------------------------------------------------------------

const sentences = [...stories({ seed: 5, count: 2 * settings.examples })].flatMap((story) =>
  documentsOf(story).flat(),
);
/** Runs of plain words from the stories. */
const runsOf = (seed: number, length: number): string[][] => {
  const draw = new Random(seed);
  const words = sentences.map((sentence) => sentence.toLowerCase().match(/[a-z]+/g) ?? []);
  const long = words.filter((run) => run.length >= length);
  return Array.from({ length: settings.examples }, () => {
    const run = long[draw.integer(long.length)]!;
    const start = draw.integer(run.length - length + 1);
    return run.slice(start, start + length);
  });
};

/** A task on a run of words, asked in three ways; with reasons where the answer needs steps. */
function wordTask(
  name: string,
  seed: number,
  length: number,
  question: string,
  answer: (words: readonly string[]) => string,
  reason?: (words: readonly string[]) => string,
): MixtureTask {
  return {
    name,
    examples: runsOf(seed, length).map((words) => ({
      words: words.join(" "),
      answer: answer(words),
      ...(reason && { reason: reason(words) }),
    })),
    templates: [
      { prompt: `${question} {words}`, answer: "{answer}" },
      { prompt: `Words: {words}\n${question}`, answer: "{answer}" },
      { prompt: `Read: {words}\nQuestion: ${question}`, answer: "{answer}" },
    ],
    ...(reason && {
      chainOfThought: [
        { prompt: `${question} {words}\nThink step by step.`, answer: "{reason} The answer is {answer}" },
      ],
    }),
  };
}

const steps = (words: readonly string[]) => words.map((word, place) => `${place + 1} is ${word}.`).join(" ");
const tuned: MixtureTask[] = [
  wordTask("first word", 11, 3, "What is the first word?", ([first]) => first!),
  wordTask("repeat", 12, 3, "Say the words again.", (words) => words.join(" ")),
  wordTask("last word", 13, 4, "What is the last word?", (words) => words.at(-1)!, steps),
  wordTask("reverse", 14, 3, "Say the words from the end.", (words) => words.toReversed().join(" ")),
  wordTask("first two", 15, 4, "What are the first two words?", (words) => words.slice(0, 2).join(" ")),
  wordTask("join", 16, 3, "Put and between the words.", (words) => words.join(" and ")),
  wordTask("second word", 17, 3, "What is the second word?", (words) => words[1]!, steps),
  wordTask("without the first", 18, 3, "Say all words but the first.", (words) => words.slice(1).join(" ")),
];
const heldOut: MixtureTask[] = [
  wordTask("last two", 21, 4, "What are the last two words?", (words) => words.slice(-2).join(" "), steps),
  wordTask("third word", 22, 4, "What is the third word?", (words) => words[2]!, steps),
];
/** Held-out questions with two solved examples of the task before each. */
const questions = heldOut.flatMap((task) =>
  task.examples
    .slice(0, settings.questions)
    .map((example, place) =>
      exchangeOf(task.templates[0]!, example, [task.examples.at(-1 - place)!, task.examples.at(-2 - place)!]),
    ),
);
console.log(
  `${tuned.length} tasks to tune on, ${heldOut.map(({ name }) => name).join(" and ")} held out, ${questions.length} questions`,
);

// ---- Tuned on more and more tasks -----------------------------------------------------------------------------------

const runtime = createRuntime({ threads });
const base = await baseModel(options, options.model, runtime);
const held = await writeConversations(
  path.join(out, "held.jsonl"),
  questions.map((messages) => ({ messages })),
);
const accuracyOf = async (model: string, adapter?: string): Promise<number> => {
  const answers = await answersOf(
    runtime,
    model,
    questions.map((messages) => messages.slice(0, -1)),
    { temperature: 0, maxNewTokens: 40, adapter },
  );
  // Reasons may come before an answer.
  const right = answers.filter((text, row) => {
    const said = text.split("The answer is ").at(-1)!;
    return said.trim().toLowerCase().replace(/[.]$/, "") === questions[row]!.at(-1)!.content;
  });
  return right.length / answers.length;
};

const table: string[][] = [["not tuned", "", percent(await accuracyOf(base))]];
const curves: Curve[] = [];
const most = settings.taskCounts.at(-1)!;
const runs = [
  ...settings.taskCounts.map((count) => ({ count, chainOfThought: 0.3 })),
  { count: most, chainOfThought: 0 },
];
for (const [index, { count, chainOfThought }] of runs.entries()) {
  const name = `${count} ${count === 1 ? "task" : "tasks"}${chainOfThought === 0 ? ", no reasons" : ""}`;
  const rows = instructionMixture(tuned.slice(0, count), {
    count: settings.rows,
    seed: 1,
    cap: settings.cap,
    shots: 2,
    chainOfThought,
  });
  const folder = freshFolder(out, `run${index + 1}`);
  const { best, curve } = await tune(
    runtime,
    name,
    {
      model: base,
      data: await writeConversations(path.join(out, `run${index + 1}.jsonl`), rows),
      eval: held,
      adapter: small ? "none" : "lora",
      steps: settings.steps,
      maxTokens: settings.maxTokens,
      learningRate: settings.learningRate,
      out: folder,
    },
    8,
  );
  curves.push(curve);
  table.push([name, best.toFixed(3), percent(await (small ? accuracyOf(folder) : accuracyOf(base, folder)))]);
  console.log(`${name}: loss ${best.toFixed(3)}`);
}
printTable(["tuned on", "loss on held-out tasks", "right"], table);
await plot(path.join(out, "loss.svg"), "Loss on held-out tasks", curves);
