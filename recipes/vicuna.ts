/**
 * Vicuna (Chiang et al. 2023): fine-tuning on conversations of several turns with the loss on the assistant alone, judged two
 * answers at a time in both orders; its 16k version reads longer texts by dividing rotary positions (Chen et al. 2023).
 *
 * The claims in miniature: the assistant's tokens alone teach more of how to answer than those of all turns; and where positions
 * are divided, a short continuation is enough for conversations four times as long. A user asks of a story what comes next, and
 * next, and how it began.
 *
 * What came out: the loss of answers is 1.119 against 1.201. The tuned model as judge prefers a place, and keeps 3 of its 28
 * verdicts in both orders. The continuation cures long conversations, but plain positions are ahead of divided ones throughout.
 *
 *   node dist/recipes/vicuna.js [--out FOLDER] [--smoke]
 */
import { cpSync, readFileSync } from "node:fs";
import path from "node:path";
import { writeAtomically } from "../src/base/files.js";
import { Random } from "../src/base/random.js";
import { loadForInference, loadModel } from "../src/checkpoints/index.js";
import {
  type Message,
  documentsOf,
  encodeConversations,
  packedBatches,
  readConversations,
  stories,
} from "../src/data/index.js";
import { type Judge, inBothOrders, modelJudge, rewardJudge, runArena } from "../src/evaluation/index.js";
import { Decoder } from "../src/generation/index.js";
import { rougeOf } from "../src/metrics/index.js";
import { packedObjective } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { finetuneChat } from "../src/tasks/index.js";
import { ChatTemplate } from "../src/tokenizers/index.js";
import { type Curve, evaluate } from "../src/training/index.js";
import { answersOf, baseModel, freshFolder, writeConversations } from "./instructions.js";
import { plot, printTable, recipeOptions } from "./recipe.js";

const options = recipeOptions("vicuna");
const { smoke, scale, out, threads } = options;
const settings = {
  conversations: smoke ? 40 : 1500,
  heldOut: smoke ? 6 : 60,
  judged: smoke ? 2 : 40,
  steps: smoke ? 4 : Math.round(160 * scale),
  longSteps: smoke ? 2 : Math.round(60 * scale),
  longHeldOut: smoke ? 2 : 12,
  context: 256,
  factor: 4,
  maxTokens: smoke ? 1024 : 2048,
  learningRate: 1e-3,
};

// ---- Conversations --------------------------------------------------------------------------------------------------

const onward = ["And then?", "What happens after that?", "Go on, please.", "What comes next?"];

/** Conversations about some stories each, one after the other. */
function conversations(seed: number, count: number, { storiesEach = 1, exchanges = 4 } = {}) {
  const random = new Random(seed).fork("vicuna");
  const texts = [...stories({ seed, count: count * storiesEach })].map((story) => documentsOf(story).flat());
  return Array.from({ length: count }, (_, row) => {
    const draw = random.fork(row);
    const messages: Message[] = texts.slice(row * storiesEach, (row + 1) * storiesEach).flatMap((story) => {
      const start = draw.integer(Math.max(1, story.length - exchanges));
      const told = story.slice(start, start + exchanges + 1);
      return [
        ...told.slice(1).flatMap((sentence, place) => [
          {
            role: "user" as const,
            content:
              place === 0 ? `What comes after this? ${told[0]!}` : onward[draw.integer(onward.length)]!,
          },
          { role: "assistant" as const, content: sentence },
        ]),
        { role: "user" as const, content: "How did it begin?" },
        { role: "assistant" as const, content: told[0]! },
      ];
    });
    return { messages };
  });
}

const held = conversations(90_001, settings.heldOut);
const runtime = createRuntime({ threads });
const base = await baseModel(options, undefined, runtime);
const training = await writeConversations(
  path.join(out, "train.jsonl"),
  conversations(1, settings.conversations),
);
const heldFile = await writeConversations(path.join(out, "held.jsonl"), held);
const shared = {
  adapter: "none",
  maxTokens: settings.maxTokens,
  learningRate: settings.learningRate,
  samples: 0,
} as const;

// ---- The loss on the assistant, or on all ---------------------------------------------------------------------------

/** Mean loss of a model on the assistant's tokens, for each range of positions. */
async function lossesOf(
  model: string,
  file: string,
  ranges: readonly (readonly [number, number])[],
): Promise<number[]> {
  const loaded = await loadModel(runtime, model, { kind: "decoder" });
  try {
    const sequenceLength = ranges.at(-1)![1];
    const { rows } = await readConversations(file);
    const encoded = encodeConversations(new ChatTemplate(loaded.tokenizer), rows, {
      name: file,
      maxLength: sequenceLength,
      long: "cut",
      endIds: loaded.stopIds,
    });
    const shape = { batchSize: 1, sequenceLength };
    const losses: number[] = [];
    for (const [from, to] of ranges) {
      const part = encoded.rows.map((row) => ({
        ...row,
        trained: row.trained.map((one, place) => Number(one === 1 && place >= from && place < to)),
      }));
      const { loss } = await evaluate(
        packedObjective(loaded.model, shape),
        loaded.weights,
        packedBatches(part, shape),
      );
      losses.push(loss);
    }
    return losses;
  } finally {
    loaded.weights.dispose();
  }
}

const ways = [
  { name: "the assistant alone", train: "assistant" },
  { name: "all turns", train: "all" },
] as const;
const tuned: string[] = [];
const written: string[][] = [];
const table: string[][] = [];
const opened = held.slice(0, settings.judged).map(({ messages }) => messages.slice(0, 3));
const wanted = held.slice(0, settings.judged).map(({ messages }) => messages[3]!.content);
for (const { name, train } of ways) {
  const folder = freshFolder(out, train);
  await finetuneChat(
    {
      ...shared,
      model: base,
      data: training,
      eval: heldFile,
      train,
      steps: settings.steps,
      evalEvery: settings.steps,
      maxLength: settings.context,
      out: folder,
    },
    { runtime },
  );
  tuned.push(folder);
  const [loss] = await lossesOf(folder, heldFile, [[0, settings.context]]);
  const answers = await answersOf(runtime, folder, opened, { temperature: 0, maxNewTokens: 32 });
  written.push(answers);
  const overlap = answers.reduce((sum, text, row) => sum + rougeOf(text, wanted[row]!).rougeL.f, 0);
  table.push([name, loss!.toFixed(3), (overlap / answers.length).toFixed(3)]);
}
printTable(["loss on", "held-out loss of answers", "ROUGE-L"], table);

const prompts = opened.map((messages) => messages.map(({ content }) => content).join("\n"));
const references = new Map(prompts.map((prompt, row) => [prompt, wanted[row]!]));
const players = ways.map(({ name }, way) => ({
  name,
  answer: (prompt: string) => Promise.resolve(written[way]![prompts.indexOf(prompt)]!),
}));
const games = async (judge: Judge): Promise<string[]> => {
  const played = await runArena(players, prompts, judge);
  return ["a", "b", "tie"].map((side) => String(played.filter(({ winner }) => winner === side).length));
};
const overlapJudge = rewardJudge((prompt, answer) =>
  Promise.resolve(rougeOf(answer, references.get(prompt)!).rougeL.f),
);
const judge = await loadForInference(runtime, tuned[0]!);
try {
  using decoder = await Decoder.create({ model: judge.model, weights: judge.weights, slots: 2 });
  const byModel = modelJudge({ decoder, tokenizer: judge.tokenizer });
  printTable(
    ["judge", "assistant alone wins", "all turns wins", "ties"],
    [
      ["overlap with the story", ...(await games(inBothOrders(overlapJudge)))],
      ["the tuned model, one order", ...(await games(byModel))],
      ["the tuned model, both orders", ...(await games(inBothOrders(byModel)))],
    ],
  );
} finally {
  judge.weights.dispose();
}

// ---- Longer conversations -------------------------------------------------------------------------------------------

/** A copy of a model that has room for longer texts, its positions divided by a factor. */
async function lengthened(name: string, factor: number): Promise<string> {
  const folder = freshFolder(out, name);
  cpSync(tuned[0]!, folder, { recursive: true });
  const file = path.join(folder, "config.json");
  const config = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  await writeAtomically(file, [
    JSON.stringify({
      ...config,
      max_position_embeddings: settings.factor * settings.context,
      ...(factor > 1 && { rope_scaling: { rope_type: "linear", factor } }),
    }),
  ]);
  return folder;
}

const long = { storiesEach: 6, exchanges: 5 };
const longTraining = await writeConversations(
  path.join(out, "long-train.jsonl"),
  conversations(2, smoke ? 8 : 200, long),
);
const longHeld = await writeConversations(
  path.join(out, "long-held.jsonl"),
  conversations(90_002, settings.longHeldOut, long),
);
const ranges = Array.from(
  { length: settings.factor },
  (_, part) => [part * settings.context, (part + 1) * settings.context] as const,
);
const curves: Curve[] = [];
const rows: string[][] = [];
for (const { name, factor } of [
  { name: "positions as they are", factor: 1 },
  { name: "positions divided by 4", factor: settings.factor },
]) {
  const start = await lengthened(`long${factor}-start`, factor);
  const folder = freshFolder(out, `long${factor}`);
  await finetuneChat(
    {
      ...shared,
      model: start,
      data: longTraining,
      eval: longHeld,
      steps: settings.longSteps,
      evalEvery: settings.longSteps,
      maxLength: settings.factor * settings.context,
      learningRate: settings.learningRate / 2,
      out: folder,
    },
    { runtime },
  );
  for (const [when, place] of [
    ["before", start],
    [`after ${settings.longSteps} steps`, folder],
  ] as const) {
    const losses = await lossesOf(place, longHeld, ranges);
    const label = `${name}, ${when}`;
    rows.push([label, ...losses.map((loss) => loss.toFixed(3))]);
    curves.push({ label, points: losses.map((loss, part) => ({ step: ranges[part]![1], loss })) });
  }
}
printTable(["loss of answers at tokens", ...ranges.map(([from, to]) => `${from} to ${to}`)], rows);
await plot(path.join(out, "positions.svg"), "Loss of answers by position", curves, { x: "tokens" });
