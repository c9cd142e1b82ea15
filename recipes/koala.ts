/**
 * Koala (Geng et al. 2023): fine-tuning on dialogues of mixed quality, conditioned on markers of their quality.
 *
 * The claim in miniature: where a part of the dialogues is of low quality, a model that is told of each which kind it is can be
 * asked for the good kind, and learns from the others as well; without markers it answers as the mixture does. The dialogues
 * ask what comes next in a story. Good answers say it; 6 of 10 evade the question, which is easy to check. Compared on equal
 * steps: all dialogues without markers, all with markers, and the good ones alone.
 *
 * What came out: 97% of answers are helpful where they are asked for, 11% where they are not, 49% without markers. Learning from
 * the good dialogues alone is better still (loss 1.447 against 1.725), since the evasions teach nothing about stories.
 *
 *   node dist/recipes/koala.js [--model DECODER, default a small one trained on the embedded stories] [--out FOLDER] [--smoke]
 */
import path from "node:path";
import { Random } from "../src/base/random.js";
import { type Message, documentsOf, stories } from "../src/data/index.js";
import { rougeOf } from "../src/metrics/index.js";
import { createRuntime } from "../src/runtime/index.js";
import type { Curve } from "../src/training/index.js";
import { answersOf, baseModel, freshFolder, tune, writeConversations } from "./instructions.js";
import { percent, plot, printTable, recipeOptions } from "./recipe.js";

const options = recipeOptions("koala", { model: { type: "string" } });
const { smoke, scale, out, threads } = options;
const settings = {
  dialogues: smoke ? 60 : 1500,
  heldOut: smoke ? 8 : 100,
  /** Share of answers that evade the question. */
  bad: 0.6,
  steps: smoke ? 4 : Math.round(160 * scale),
  maxTokens: smoke ? 512 : 1024,
  learningRate: options.model === undefined ? 1e-3 : 2e-4,
};
const markers = { good: "The answer is helpful.", bad: "The answer is not helpful." };
const evasions = ["I do not know.", "I cannot say.", "Who knows?", "Ask me later."];

// ---- Dialogues ----------------------------------------------------------------------------------------------------

interface Dialogue {
  readonly question: string;
  readonly answer: string;
  readonly good: boolean;
}

function dialogues(seed: number, count: number, bad: number): Dialogue[] {
  const random = new Random(seed).fork("koala");
  const sentences = [...stories({ seed, count: 2 * count })].map((story) => documentsOf(story).flat());
  return Array.from({ length: count }, (_, row) => {
    const draw = random.fork(row);
    const story = sentences[row % sentences.length]!;
    const place = draw.integer(Math.max(1, story.length - 1));
    const good = draw.uniform() >= bad;
    return {
      question: `What comes after this? ${story[place]!}`,
      answer: good ? (story[place + 1] ?? story[0]!) : evasions[draw.integer(evasions.length)]!,
      good,
    };
  });
}

const asked = (question: string, marker?: string): Message[] => [
  ...(marker === undefined ? [] : [{ role: "system", content: marker } as const]),
  { role: "user", content: question },
];
const conversation = ({ question, answer, good }: Dialogue, marked: boolean) => ({
  messages: [
    ...asked(question, marked ? markers[good ? "good" : "bad"] : undefined),
    { role: "assistant", content: answer } as const,
  ],
});

const training = dialogues(1, settings.dialogues, settings.bad);
const held = dialogues(90_001, settings.heldOut, 0);
const share = training.filter(({ good }) => good).length / training.length;
console.log(
  `${training.length} dialogues, ${percent(share)} of them with a helpful answer; ${held.length} helpful ones held out`,
);

// ---- Three ways to learn from them ----------------------------------------------------------------------------------

const runtime = createRuntime({ threads });
const base = await baseModel(options, options.model, runtime);
const ways = [
  { name: "all, without markers", rows: training, marked: false },
  { name: "all, with markers", rows: training, marked: true },
  { name: "the good ones alone", rows: training.filter(({ good }) => good), marked: false },
];
const curves: Curve[] = [];
const table: string[][] = [];
for (const [index, { name, rows, marked }] of ways.entries()) {
  const folder = freshFolder(out, `way${index + 1}`);
  const file = (part: string) => path.join(out, `way${index + 1}-${part}.jsonl`);
  const adapter = options.model === undefined ? "none" : "lora";
  const { best, curve } = await tune(
    runtime,
    name,
    {
      model: base,
      data: await writeConversations(
        file("train"),
        rows.map((row) => conversation(row, marked)),
      ),
      eval: await writeConversations(
        file("held"),
        held.map((row) => conversation(row, marked)),
      ),
      adapter,
      steps: settings.steps,
      maxTokens: settings.maxTokens,
      learningRate: settings.learningRate,
      out: folder,
    },
    8,
  );
  curves.push(curve);
  const wanted = marked ? (["good", "bad"] as const) : ([undefined] as const);
  for (const quality of wanted) {
    const marker = quality && markers[quality];
    const answers = await answersOf(
      runtime,
      adapter === "none" ? folder : base,
      held.map(({ question }) => asked(question, marker)),
      { temperature: 1, seed: 1, maxNewTokens: 32, adapter: adapter === "none" ? undefined : folder },
    );
    const helpful = answers.filter((text) => text.trim() !== "" && !evasions.includes(text.trim()));
    const overlap = answers.reduce((sum, text, row) => sum + rougeOf(text, held[row]!.answer).rougeL.f, 0);
    table.push([
      quality === undefined ? name : `${name}, asked for ${quality}`,
      quality === "bad" ? "" : best.toFixed(3),
      percent(helpful.length / answers.length),
      (overlap / answers.length).toFixed(3),
    ]);
  }
}
printTable(["learned from", "loss on helpful answers", "helpful answers", "ROUGE-L"], table);
await plot(path.join(out, "loss.svg"), "Loss on helpful answers", curves);
