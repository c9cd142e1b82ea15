/** What the two recipes of medical models share: questions of PubMedQA, and a small model that follows instructions. */
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { Random } from "../src/base/random.js";
import { saveModel } from "../src/checkpoints/index.js";
import { logLikelihoods } from "../src/evaluation/index.js";
import { Decoder } from "../src/generation/index.js";
import { Llama, llamaConfig, systems } from "../src/models/index.js";
import { type CausalLm, type WeightSet, Weights } from "../src/nn/index.js";
import type { Runtime } from "../src/runtime/index.js";
import { type Tokenizer, trainByteLevelBpe } from "../src/tokenizers/index.js";
import { trainDecoder } from "./decoders.js";
import type { RecipeOptions } from "./recipe.js";

export const answers = ["yes", "no", "maybe"] as const;
export type Answer = (typeof answers)[number];

export interface Question {
  readonly question: string;
  /** What the authors concluded. */
  readonly conclusion: string;
  /** The sections of the abstract. */
  readonly sections: readonly { readonly name: string; readonly text: string }[];
  readonly answer: Answer;
}

export interface Questions {
  readonly name: string;
  readonly training: readonly Question[];
  readonly test: readonly Question[];
}

/** PubMedQA, Jin et al. 2019, with its published test questions; without the data, made-up questions of one pattern. */
function medicalQuestions({ data, smoke }: RecipeOptions): Questions {
  const file = path.join(data, "pubmedqa_labeled.json");
  if (!existsSync(file)) {
    const made = madeUp(smoke ? 120 : 1000);
    return { name: "made-up questions", training: made.slice(0, -50), test: made.slice(-50) };
  }
  const read = (name: string): Record<string, unknown> =>
    JSON.parse(readFileSync(path.join(data, name), "utf8")) as Record<string, unknown>;
  const tests = new Set(Object.keys(read("pubmedqa_test_ids.json")));
  const [training, test]: [Question[], Question[]] = [[], []];
  for (const [id, given] of Object.entries(read("pubmedqa_labeled.json"))) {
    const row = given as Record<string, string> & { CONTEXTS: string[]; LABELS: string[] };
    const question = {
      question: row["QUESTION"]!,
      conclusion: row["LONG_ANSWER"]!,
      sections: row.CONTEXTS.map((text, index) => ({ name: row.LABELS[index] ?? "TEXT", text })),
      answer: row["final_decision"] as Answer,
    };
    (tests.has(id) ? test : training).push(question);
  }
  const share = <T>(rows: readonly T[], most: number): readonly T[] => rows.slice(0, smoke ? 12 : most);
  return { name: "PubMedQA", training: share(training, Infinity), test: share(test, 200) };
}

function madeUp(count: number): Question[] {
  const drugs = ["aspirin", "vitamin D", "zinc", "caffeine", "ibuprofen", "insulin"];
  const ills = ["headache", "fever", "anaemia", "asthma", "fatigue", "infection"];
  return Array.from({ length: count }, (_, index) => {
    const random = new Random(7, index);
    const [drug, ill] = [drugs[random.integer(6)]!, ills[random.integer(6)]!];
    const answer = answers[random.integer(3)]!;
    const found = { yes: "reduced", no: "did not reduce", maybe: "may have reduced" }[answer];
    return {
      question: `Does ${drug} reduce ${ill}?`,
      conclusion: `In this trial ${drug} ${found} ${ill}.`,
      sections: [
        { name: "BACKGROUND", text: `It is not known whether ${drug} helps against ${ill}.` },
        { name: "RESULTS", text: `Patients with ${drug} were compared with others: it ${found} ${ill}.` },
      ],
      answer,
    };
  });
}

const shortened = (text: string, words: number): string => text.split(/\s+/).slice(0, words).join(" ");

/** The hard prompt of a question whose answer is one word. */
export const wordPrompt = ({ question, conclusion }: Question): string =>
  `Instruction: Answer the medical question by yes, no or maybe.\nText: ${shortened(conclusion, 45)}\nQuestion: ${question}\nAnswer:`;

/** The hard prompt of a question whose answer is a conclusion and then a word. */
export const reasonPrompt = ({ question, sections }: Question): string => {
  const results = sections.filter(({ name }) => /RESULT|FINDING/i.test(name)).at(-1) ?? sections.at(-1)!;
  return `Instruction: Write the conclusion of the study, then answer yes, no or maybe.\nText: ${shortened(results.text, 45)}\nQuestion: ${question}\nAnswer:`;
};
export const reasonAnswer = ({ conclusion, answer }: Question): string =>
  ` ${shortened(conclusion, 22)} So: ${answer}`;
/** The last yes, no or maybe after "So:". */
export const reasonedAnswer = (text: string): string | null =>
  /So:\s*(yes|no|maybe)/i.exec(text)?.[1] ?? null;

/** Tokens of a row. */
export const rowLength = 160;

/**
 * A LLaMA that has read the training questions' abstracts as instructions: to name the section of a text, and to find the question that a
 * conclusion answers. It has not been told yes, no or maybe.
 */
async function instructed(
  runtime: Runtime,
  folder: string,
  { training }: Questions,
  { smoke, scale }: RecipeOptions,
): Promise<void> {
  if (existsSync(path.join(folder, "model.safetensors"))) return;
  const random = new Random(3);
  const texts = training.flatMap((one) => [
    ...one.sections.map(
      ({ name, text }) =>
        `Instruction: Name the section that the text is from.\nText: ${shortened(text, 60)}\nAnswer: ${name}`,
    ),
    `Instruction: Write the question that the text answers.\nText: ${shortened(one.conclusion, 45)}\nAnswer: ${one.question}`,
    `Instruction: Say whether the text answers the question.\nText: ${shortened(one.conclusion, 45)}\nQuestion: ${one.question}\nAnswer: it does`,
    ((other) =>
      `Instruction: Say whether the text answers the question.\nText: ${shortened(other.conclusion, 45)}\nQuestion: ${one.question}\nAnswer: it does not`)(
      training[random.integer(training.length)]!,
    ),
  ]);
  // Every character of the questions that are asked later has a token: the tokens are bytes.
  const tokenizer = trainByteLevelBpe(texts, { vocabSize: smoke ? 512 : 2048 });
  const ids = Int32Array.from(texts.flatMap((text) => [...tokenizer.encode(text), tokenizer.endOfTextId!]));
  const split = Math.floor(ids.length * 0.97);
  const model = new Llama(
    llamaConfig({
      vocabSize: tokenizer.vocabSize,
      ...(smoke
        ? { numLayers: 1, hiddenSize: 64, numHeads: 2 }
        : { numLayers: 3, hiddenSize: 256, numHeads: 4 }),
      contextLength: 512,
      tieEmbeddings: true,
    }),
  );
  using weights = Weights.initialize(runtime, model, 1);
  await trainDecoder({
    label: "instruction tuning",
    model,
    weights,
    tokens: { training: ids.subarray(0, split), heldOut: ids.subarray(split) },
    batchSize: 8,
    sequenceLength: 128,
    steps: smoke ? 6 : Math.round(250 * scale),
    evalEvery: smoke ? 3 : 50,
    learningRate: 2e-3,
  });
  await saveModel(folder, { system: systems.llama, model, weights, tokenizer });
}

/** What the recipes of medical models begin with: questions, and a model that follows instructions, given or made. */
export async function medicalStart(
  runtime: Runtime,
  options: RecipeOptions & { readonly model?: string | undefined },
): Promise<{ readonly questions: Questions; readonly base: string }> {
  const questions = medicalQuestions(options);
  const { model: base = path.join(options.out, "base") } = options;
  if (options.model === undefined) await instructed(runtime, base, questions, options);
  return { questions, base };
}

/** A decoder for questions and their answers. */
export const medicalDecoder = (model: CausalLm, weights: WeightSet, slots = 1): Promise<Decoder> =>
  Decoder.create({ model, weights, slots, capacity: Math.min(512, model.config.contextLength) });

/** Share of questions whose right word is the likeliest of the three. */
export async function wordAccuracy(
  decoder: Decoder,
  tokenizer: Tokenizer,
  questions: readonly Question[],
  before = "",
): Promise<number> {
  const asked = questions.flatMap((question) =>
    answers.map((answer) => ({ context: before + wordPrompt(question), continuation: ` ${answer}` })),
  );
  const found = await logLikelihoods({ decoder, tokenizer }, asked);
  let right = 0;
  for (const [index, question] of questions.entries()) {
    const sums = answers.map((_, place) => found[3 * index + place]!.sum);
    if (answers[sums.indexOf(Math.max(...sums))] === question.answer) right++;
  }
  return right / questions.length;
}
