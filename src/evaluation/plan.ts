import { indexOfLargest } from "../base/numbers.js";
import { LineageError } from "../base/errors.js";
import {
  type Decoder,
  type Prompt,
  type TextWriter,
  generateText,
  isSourcePrompt,
  promptIds,
} from "../generation/index.js";
import type { ChatMessage, Tokenizer } from "../tokenizers/index.js";
import type { Task, TaskDeclaration } from "./declaration.js";
import {
  type Likelihood,
  type Target,
  beyond,
  encodePair,
  encodeSourcePair,
  leftTruncated,
  prefixToken,
  rollingWindows,
  targetLikelihoods,
} from "./likelihood.js";
import { overlapLength, overlapping } from "./overlap.js";
import { type Question, questionsOf } from "./questions.js";
import { type Write, ensembleRefinement, majority, selfConsistency } from "./refinement.js";
import type { Prediction } from "./scores.js";

export interface PlanOptions {
  /** Examples before each question. Default 0. */
  readonly shots?: number | undefined;
  /** Draws the examples, and samples. Default 0. */
  readonly seed?: number | undefined;
  /** The first so many questions. Default: all. */
  readonly limit?: number | undefined;
  /** Whether a prompt beyond the context loses its beginning. Default: it is counted and not asked. */
  readonly truncate?: boolean | undefined;
  /** Answers to a question of a task that writes, of which the most frequent counts. Default 1. */
  readonly samples?: number | undefined;
  /**
   * Answers that are sampled first and stand before the question when it is asked again, as in ensemble refinement (Singhal et al. 2023,
   * section 3.4: 11, and 33 samples after them). Default: none.
   */
  readonly refine?: number | undefined;
  /** Of samples. Default: 0 for one sample, 0.7 for several. */
  readonly temperature?: number | undefined;
  /** Tokens that a window of a long text reads before its own, at least. Default 1. */
  readonly overlap?: number | undefined;
  /** Writes messages as a chat model reads them; see `QuestionOptions`. Default: prompts are plain text. */
  readonly chat?: ((messages: readonly ChatMessage[]) => string) | undefined;
  /** Whether a chat has examples and question in one turn. Default: a turn each. */
  readonly oneTurn?: boolean | undefined;
  /** Files that the model was trained on: scores are told of questions with and without words in a row from them. */
  readonly trainedOn?: readonly string[] | undefined;
  /** Of an encoder-decoder, which reads prompts as sources: what its texts begin with. */
  readonly begin?: readonly number[] | undefined;
}

/** A question as ids. */
interface Asked {
  readonly question: Question;
  readonly cut: number;
  /** Tokens beyond the context of a question that is not asked; 0 for one that is. */
  readonly tooMany: number;
  /** A target for each choice, or each window of a text. */
  readonly targets: readonly Target[];
  /** The prompt of an answer that is written; undefined where none is. */
  readonly prompt: Prompt | undefined;
  /** Positions that a decoder needs besides the prompt. */
  readonly room: number;
}

/** A task with everything that a model is to be asked. */
export interface Plan {
  readonly task: Task;
  readonly options: PlanOptions;
  readonly examples: readonly number[];
  readonly asked: readonly Asked[];
  /** Choices after the unconditional prompt, by their text. */
  readonly unconditional: ReadonlyMap<string, Target>;
  /** Positions that a decoder needs for it. */
  readonly capacity: number;
  /** Questions of which a training text has words in a row. */
  readonly overlap?: PlannedOverlap | undefined;
}

export interface PlannedOverlap {
  readonly files: readonly string[];
  readonly words: number;
  /** Words in a row that were left out, for too many documents have them. */
  readonly common: number;
  readonly rows: ReadonlySet<number>;
}

/**
 * Reads a task's data, renders its prompts and encodes them, before any model runs. Throws as `questionsOf`.
 * @param context tokens that the model reads at most
 */
export async function planTask(
  task: Task,
  tokenizer: Tokenizer,
  context: number,
  options: PlanOptions = {},
): Promise<Plan> {
  const { shots = 0, seed = 0, limit, chat, oneTurn, begin } = options;
  if (options.refine && !task.declaration.generate)
    throw new LineageError(
      "argument",
      `${task.name} has nothing to refine: no answer is written; leave --refine out`,
    );
  if (begin && task.declaration.text !== undefined)
    throw new LineageError(
      "unsupported",
      `${task.name} measures the perplexity of texts, for which the model must be a decoder; this one is an encoder-decoder`,
    );
  const { maxNewTokens = 0 } = task.declaration.generate ?? {};
  if (maxNewTokens >= context)
    throw new LineageError(
      "length",
      `${task.name} lets the model write ${maxNewTokens} tokens (generate.maxNewTokens), which leaves no room for a prompt in its context of ${context}`,
    );
  const { questions, examples } = await questionsOf(task, { shots, seed, limit, chat, oneTurn });
  const asked = questions.map((question) => ask(task.declaration, question, tokenizer, context, options));
  const unconditional = new Map<string, Target>();
  const { unconditional: prompt, delimiter } = task.declaration;
  if (prompt !== undefined)
    for (const choice of new Set(questions.flatMap(({ choices }) => choices)))
      unconditional.set(choice, pairOf(tokenizer, prompt, (chat ? "" : delimiter) + choice, begin));
  let capacity = 2;
  for (const target of [...asked.flatMap(({ targets }) => targets), ...unconditional.values()])
    capacity = Math.max(capacity, target.context.length + target.target.length - 1);
  for (const { prompt: ids, room } of asked)
    if (ids) capacity = Math.max(capacity, (isSourcePrompt(ids) ? begin! : ids).length + room);
  const { trainedOn } = options;
  const overlap = trainedOn === undefined ? undefined : await plannedOverlap(questions, trainedOn);
  return { task, options, examples, asked, unconditional, capacity, overlap };
}

async function plannedOverlap(
  questions: readonly Question[],
  files: readonly string[],
): Promise<PlannedOverlap> {
  const own = questions.map((question) => question.own);
  const words = overlapLength(own);
  const { texts, common } = await overlapping(own, files, words);
  return { files, words, common, rows: new Set([...texts].map((place) => questions[place]!.row)) };
}

/**
 * Tokens that are written and read besides a prompt: an answer, and before that those of a first round and what stands around them.
 * `lengthOf` counts the tokens of a prompt.
 */
function roomOf(
  { generate }: Pick<TaskDeclaration, "generate">,
  question: Question,
  { refine = 0 }: PlanOptions,
  lengthOf: (prompt: string) => number,
): number {
  const { maxNewTokens } = generate!;
  if (refine === 0) return maxNewTokens;
  const around =
    lengthOf(question.refined(Array.from({ length: refine }, () => ""))) - lengthOf(question.prompt);
  return around + (refine + 1) * maxNewTokens;
}

const pairOf = (
  tokenizer: Tokenizer,
  context: string,
  continuation: string,
  begin: readonly number[] | undefined,
): Target =>
  begin
    ? encodeSourcePair(tokenizer, { context, continuation }, begin)
    : encodePair(tokenizer, { context, continuation });

function ask(
  { delimiter, generate, choices, unconditional: _, ...rest }: TaskDeclaration,
  question: Question,
  tokenizer: Tokenizer,
  context: number,
  options: PlanOptions,
): Asked {
  const { truncate = false, overlap, chat, begin } = options;
  const none = { question, cut: 0, tooMany: 0, targets: [], prompt: undefined, room: 0 };
  if (rest.text !== undefined)
    return {
      ...none,
      targets: rollingWindows(tokenizer.encode(question.prompt), prefixToken(tokenizer), context, overlap),
    };
  if (choices !== undefined) {
    const targets = question.choices.map((choice) =>
      pairOf(tokenizer, question.prompt, (chat ? "" : delimiter) + choice, begin),
    );
    const tooMany = Math.max(...targets.map((target) => beyond(target, context)));
    if (tooMany === 0) return { ...none, targets };
    return truncate
      ? { ...none, cut: tooMany, targets: targets.map((target) => leftTruncated(target, context)) }
      : { ...none, tooMany };
  }
  if (begin) {
    const source = tokenizer.encodePair(question.prompt).ids;
    const room = generate!.maxNewTokens;
    const more = roomOf({ generate }, question, options, (text) => tokenizer.encodePair(text).ids.length);
    const read = source.length + more - room;
    const tooMany = Math.max(0, read - context, begin.length + room - context);
    if (tooMany === 0) return { ...none, prompt: { source, begin }, room };
    return truncate && read - context === tooMany && tooMany < source.length
      ? { ...none, cut: tooMany, prompt: { source: source.slice(tooMany), begin }, room }
      : { ...none, tooMany };
  }
  const ids = promptIds(tokenizer, question.prompt);
  const room = roomOf({ generate }, question, options, (text) => promptIds(tokenizer, text).length);
  const tooMany = Math.max(0, ids.length + room - context);
  if (tooMany === 0) return { ...none, prompt: ids, room };
  return truncate && tooMany < ids.length
    ? { ...none, cut: tooMany, prompt: ids.slice(tooMany), room }
    : { ...none, tooMany };
}

export interface RunOptions {
  readonly signal?: AbortSignal | undefined;
  /** Predictions that are known already, by row. */
  readonly known?: ReadonlyMap<number, Prediction> | undefined;
  /** Is told of each prediction as it is made; the order is not that of the rows. */
  readonly predicted?: ((prediction: Prediction) => void | Promise<void>) | undefined;
}

/** Asks a model everything of a plan that is not known yet; all predictions, in the order of the rows. */
export async function runPlan(
  writer: TextWriter,
  plan: Plan,
  options: RunOptions = {},
): Promise<Prediction[]> {
  const { known = new Map<number, Prediction>(), predicted } = options;
  const made = new Map(known);
  const add = async (prediction: Prediction): Promise<void> => {
    made.set(prediction.row, prediction);
    await predicted?.(prediction);
  };
  const open = plan.asked.filter(({ question }) => !known.has(question.row));
  for (const { question, tooMany } of open)
    if (tooMany > 0) await add({ kind: "beyond", row: question.row, hash: question.hash, tooMany });
  const fitting = open.filter(({ tooMany }) => tooMany === 0);
  if (plan.task.declaration.generate) await write(writer, plan, fitting, add, options);
  else await measure(writer.decoder, plan, fitting, add, options);
  return plan.asked.map(({ question }) => made.get(question.row)!);
}

type Add = (prediction: Prediction) => Promise<void>;

/** Likelihoods of choices, or of texts. */
async function measure(
  decoder: Decoder,
  plan: Plan,
  asked: readonly Asked[],
  add: Add,
  { signal }: RunOptions,
): Promise<void> {
  const before = new Map<string, number>();
  if (asked.length > 0) {
    const texts = [...plan.unconditional.keys()];
    const values = await targetLikelihoods(decoder, [...plan.unconditional.values()], { signal });
    for (const [index, text] of texts.entries()) before.set(text, values[index]!.sum);
  }
  const owners = asked.flatMap((one) => one.targets.map((_, place) => ({ one, place })));
  const found = new Map(asked.map((one) => [one, [] as Likelihood[]]));
  const left = new Map(asked.map((one) => [one, one.targets.length]));
  for (const one of asked) if (one.targets.length === 0) await add(predictionOf(plan, one, [], before));
  await targetLikelihoods(
    decoder,
    asked.flatMap(({ targets }) => targets),
    {
      signal,
      scored: async (index, likelihood) => {
        const { one, place } = owners[index]!;
        found.get(one)![place] = likelihood;
        left.set(one, left.get(one)! - 1);
        if (left.get(one) === 0) await add(predictionOf(plan, one, found.get(one)!, before));
      },
    },
  );
}

function predictionOf(
  { task: { declaration } }: Plan,
  { question, cut }: Asked,
  likelihoods: readonly Likelihood[],
  before: ReadonlyMap<string, number>,
): Prediction {
  const { row, hash, choices, target, prompt } = question;
  const head = { row, hash, ...(cut > 0 && { cut }) };
  const sums = likelihoods.map(({ sum }) => sum);
  if (declaration.text !== undefined)
    return {
      ...head,
      kind: "perplexity",
      logLikelihood: sums.reduce((total, sum) => total + sum, 0),
      tokens: likelihoods.reduce((total, { tokens }) => total + tokens, 0),
      words: prompt.split(/\s+/).length,
      bytes: Buffer.byteLength(prompt),
    };
  return {
    ...head,
    kind: "choices",
    choices: [...choices],
    target: Number(target),
    answer: indexOfLargest(sums),
    logLikelihoods: sums,
    tokens: likelihoods.map(({ tokens }) => tokens),
    greedy: likelihoods.map(({ greedy }) => greedy),
    ...(before.size > 0 && { unconditional: choices.map((choice) => before.get(choice)!) }),
  };
}

/** Answers that a model writes, several questions side by side. */
async function write(
  writer: TextWriter,
  plan: Plan,
  asked: readonly Asked[],
  add: Add,
  { signal }: RunOptions,
): Promise<void> {
  const generate = plan.task.declaration.generate!;
  const { samples = 1, refine = 0, seed = 0, begin } = plan.options;
  const { temperature = samples + refine > 1 ? 0.7 : 0 } = plan.options;
  const { maxNewTokens, stop } = generate;
  const side = Math.max(1, writer.decoder.slots);
  for (let start = 0; start < asked.length; start += side) {
    signal?.throwIfAborted();
    await Promise.all(
      asked.slice(start, start + side).map(async ({ question, prompt, cut }) => {
        const { row, hash, target } = question;
        const sample: Write = async (asked, number) => {
          const own = asked === question.prompt ? prompt! : refinedPrompt(writer, asked, maxNewTokens, begin);
          const stream = row * (samples + refine) + number;
          return (
            await generateText(writer, own, { maxNewTokens, stop, temperature, seed, stream, signal }).all()
          ).text;
        };
        const extract = (text: string) => extracted(text, generate);
        const vote =
          refine > 0
            ? await ensembleRefinement(sample, question.prompt, {
                reasonings: refine,
                refinements: samples,
                extract,
                refine: (_, answers) => question.refined(answers),
              })
            : {
                ...(await selfConsistency(sample, question.prompt, { samples, extract })),
                reasonings: undefined,
              };
        const { texts } = vote;
        const { answer, correct } = judged(texts, String(target), generate);
        const { flexible } = generate;
        const prediction = {
          ...{ row, hash, ...(cut > 0 && { cut }) },
          ...(flexible !== undefined && {
            flexible: judged(texts, String(target), { ...generate, extract: flexible, take: "last" }).correct,
          }),
          ...(vote.reasonings && { reasonings: [...vote.reasonings.texts] }),
        };
        await add({
          ...prediction,
          kind: "text",
          target: String(target),
          answer,
          correct,
          texts: [...texts],
        });
      }),
    );
  }
}

/** The prompt of a second round. The first round left room for it; what its answers have beyond that is cut off at the beginning. */
function refinedPrompt(
  { decoder, tokenizer }: TextWriter,
  text: string,
  maxNewTokens: number,
  begin: readonly number[] | undefined,
): Prompt {
  if (begin) return { source: tokenizer.encodePair(text).ids.slice(-decoder.sourceCapacity), begin };
  return promptIds(tokenizer, text).slice(-(decoder.capacity - maxNewTokens));
}

type Rule = NonNullable<TaskDeclaration["generate"]>;

/** The answer of texts, of several what most of them say, and whether it is right. */
export function judged(
  texts: readonly string[],
  target: string,
  rule: Pick<Rule, "extract" | "take" | "ignore">,
): { answer: string | null; correct: boolean } {
  const answer = majority(texts.map((text) => extracted(text, rule)));
  return { answer, correct: answer !== null && comparable(answer, rule) === comparable(target, rule) };
}

/** The answer in a text; null where the rule finds none. */
export function extracted(text: string, { extract, take }: Pick<Rule, "extract" | "take">): string | null {
  if (extract === undefined) return text.trim();
  const matches = [...text.matchAll(new RegExp(extract, "gu"))];
  const match = take === "first" ? matches[0] : matches.at(-1);
  return match ? (match[1] ?? match[0]).trim() : null;
}

const comparable = (text: string, { ignore }: Pick<Rule, "ignore">): string =>
  ignore.reduce((rest, part) => rest.replace(new RegExp(part, "gu"), ""), text).trim();
