import { z } from "zod";
import { validated } from "../base/check.js";
import { FormatError, LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import { rougeOf } from "../metrics/index.js";
import { readTable } from "./table.js";

// Self-Instruct, Wang et al. 2023: a model grows a list of tasks from a few that people wrote.

/** A task with an instance: Alpaca's row. */
export interface InstructionTask {
  readonly instruction: string;
  readonly input: string;
  readonly output: string;
  readonly isClassification: boolean;
}

const seedRow = z.object({
  instruction: z.string().min(1),
  instances: z.array(z.object({ input: z.string(), output: z.string() })).min(1),
  is_classification: z.boolean().default(false),
});

/** Reads tasks that people wrote, as the paper's authors publish them: instruction, instances, is_classification. */
export async function readSeedTasks(file: string): Promise<InstructionTask[]> {
  const { rows } = await readTable(file);
  return rows.map(({ number, values }) => {
    const { instruction, instances, is_classification } = validated(
      seedRow,
      { ...values },
      (problem) => new FormatError(file, `row ${number}: ${problem}`),
    );
    return { instruction, ...instances[0]!, isClassification: is_classification };
  });
}

/** Writes what follows on a prompt, until one of `stop` or so many tokens. */
export type PromptWriter = (
  prompt: string,
  options: { readonly stop: readonly string[]; readonly maxNewTokens: number; readonly stream: number },
) => Promise<string>;

export interface GrowOptions {
  readonly write: PromptWriter;
  /** New tasks to make. */
  readonly count: number;
  /** Prompts for instructions at most. Default: ten for each task. */
  readonly attempts?: number;
  /** An instruction is kept where its ROUGE-L with every other is below this. Default 0.7. */
  readonly similarity?: number;
  readonly seed?: number;
  /** Where an earlier call stopped: with the same seeds and options the rest is what it would have been. Default: nothing yet. */
  readonly from?: Grown | undefined;
  /** Told after each prompt where growing stands, and waited for. */
  readonly onPrompt?: (grown: Grown) => void | Promise<void>;
  /** Ends the list between two prompts; the prompt under way is lost. */
  readonly signal?: AbortSignal | undefined;
}

/** What became of the instructions that the model wrote. */
export interface GrowCounts {
  readonly kept: number;
  /** Too like one that is there. */
  readonly similar: number;
  /** Too short or long, about pictures or programs that a text model has not, or no sentence. */
  readonly unfit: number;
  /** Without an output, or with one that repeats its input. */
  readonly withoutInstance: number;
}

/** A list that has grown so far. */
export interface Grown {
  readonly tasks: readonly InstructionTask[];
  readonly counts: GrowCounts;
  /** Prompts for instructions that have been written on. */
  readonly prompts: number;
}

/** Tasks that a prompt shows: written by people, and by the model. Section 2.2. */
const [shownSeeds, shownGrown] = [6, 2];
/** Words of tasks that a model of text cannot do, from the authors' filter. */
const impossible =
  /\b(?:image|images|graph|graphs|picture|pictures|photo|file|files|map|maps|draw|plot|video|audio|music|flowchart|diagram)\b/i;

/** Whether an instruction may stand in the list: 3 to 150 words, a beginning in letters, and nothing but text. Section 2.2. */
export function isFitInstruction(text: string): boolean {
  const words = text.trim().split(/\s+/).length;
  return words >= 3 && words <= 150 && /^\p{L}/u.test(text.trim()) && !impossible.test(text);
}

/** Whether an instruction is unlike all others: its ROUGE-L with each is below `similarity`. */
export const isNewInstruction = (text: string, others: readonly string[], similarity = 0.7): boolean =>
  others.every((other) => rougeOf(text, other).rougeL.f < similarity);

/**
 * Grows a list of tasks. Each round shows some of them and asks for the next instruction; one that is fit and new is asked
 * whether it is a classification; then an instance is written, for a classification the label first and its input after, so
 * that not every input gets the same label, and for others the input first. Section 2.2.
 */
export async function growTasks(seeds: readonly InstructionTask[], options: GrowOptions): Promise<Grown> {
  const { count, attempts = 10 * count, similarity = 0.7, seed = 1, from, onPrompt, signal } = options;
  if (seeds.length < shownSeeds)
    throw new LineageError("data", `self-instruct needs ${shownSeeds} tasks to show, not ${seeds.length}`);
  const random = new Random(seed).fork("self-instruct");
  const write: PromptWriter = async (...asked) => {
    const text = await options.write(...asked);
    // What was cut off is no answer.
    signal?.throwIfAborted();
    return text;
  };
  let grown: Grown = from ?? {
    tasks: [],
    counts: { kept: 0, similar: 0, unfit: 0, withoutInstance: 0 },
    prompts: 0,
  };
  while (grown.prompts < attempts && grown.tasks.length < count) {
    signal?.throwIfAborted();
    const { tasks, counts, prompts: stream } = grown;
    const asked = { write, draw: random.fork(stream), stream };
    const found = await writeTask(seeds, tasks, { ...asked, similarity });
    const fate = typeof found === "string" ? found : "kept";
    grown = {
      tasks: typeof found === "string" ? tasks : [...tasks, found],
      counts: { ...counts, [fate]: counts[fate] + 1 },
      prompts: stream + 1,
    };
    await onPrompt?.(grown);
  }
  return grown;
}

/** One new task, or why there is none. */
async function writeTask(
  seeds: readonly InstructionTask[],
  tasks: readonly InstructionTask[],
  { similarity, ...asked }: Asked & { readonly similarity: number },
): Promise<InstructionTask | Exclude<keyof GrowCounts, "kept">> {
  const { write, draw, stream } = asked;
  const shown = draw.shuffle([
    ...sample(seeds, shownSeeds + shownGrown - Math.min(shownGrown, tasks.length), draw),
    ...sample(tasks, shownGrown, draw),
  ]);
  const prompt = instructionPrompt(shown.map((task) => task.instruction));
  const instruction = (await write(prompt, { stop: ["\n"], maxNewTokens: 60, stream })).trim();
  if (!isFitInstruction(instruction)) return "unfit";
  const others = [...seeds, ...tasks].map((task) => task.instruction);
  if (!isNewInstruction(instruction, others, similarity)) return "similar";
  const isClassification = await asksForClass(instruction, seeds, asked);
  const instance = await instanceOf(instruction, isClassification, seeds, asked);
  return instance === undefined ? "withoutInstance" : { instruction, ...instance, isClassification };
}

const sample = <T>(items: readonly T[], most: number, random: Random): T[] =>
  [...random.permutation(items.length).slice(0, most)].map((place) => items[place]!);

const oneLine = (text: string): string => text.replace(/\s+/g, " ").trim();

export const instructionPrompt = (shown: readonly string[]): string =>
  `Come up with a series of tasks:\n\n${shown
    .map((instruction, place) => `Task ${place + 1}: ${oneLine(instruction)}\n`)
    .join("")}Task ${shown.length + 1}:`;

interface Asked {
  readonly write: PromptWriter;
  readonly draw: Random;
  readonly stream: number;
}

async function asksForClass(
  instruction: string,
  seeds: readonly InstructionTask[],
  { write, draw, stream }: Asked,
): Promise<boolean> {
  const shown = [true, false].flatMap((wanted) =>
    sample(
      seeds.filter((task) => task.isClassification === wanted),
      3,
      draw,
    ),
  );
  const question = "Can the following task be regarded as a classification task with finite output labels?";
  const lines = draw
    .shuffle(shown)
    .map(
      (task) =>
        `Task: ${oneLine(task.instruction)}\nIs it classification? ${task.isClassification ? "Yes" : "No"}\n\n`,
    );
  const prompt = `${question}\n\n${lines.join("")}Task: ${instruction}\nIs it classification?`;
  return /^\s*yes/i.test(await write(prompt, { stop: ["\n"], maxNewTokens: 3, stream }));
}

/** Characters of an instance that a prompt shows: longer ones leave no room. */
const shownInstance = 300;

async function instanceOf(
  instruction: string,
  isClassification: boolean,
  seeds: readonly InstructionTask[],
  { write, draw, stream }: Asked,
): Promise<{ input: string; output: string } | undefined> {
  const fitting = seeds.filter(
    (task) =>
      task.isClassification === isClassification && task.input.length + task.output.length <= shownInstance,
  );
  const shown = sample(fitting, 3, draw);
  const inputOf = (input: string) => oneLine(input) || "None";
  const written = isClassification
    ? shown.map(
        (task) =>
          `Task: ${oneLine(task.instruction)}\nLabel: ${oneLine(task.output)}\nInput: ${inputOf(task.input)}\n\n`,
      )
    : shown.map(
        (task) =>
          `Task: ${oneLine(task.instruction)}\nInput: ${inputOf(task.input)}\nOutput: ${oneLine(task.output)}\n\n`,
      );
  const begin = `${written.join("")}Task: ${instruction}\n${isClassification ? "Label:" : "Input:"}`;
  const said = await write(begin, { stop: ["\n\n", "\nTask:"], maxNewTokens: 120, stream });
  const [first = "", ...rest] = said.split(isClassification ? /\n\s*Input:/ : /\n\s*Output:/);
  const [input, output] = isClassification ? [rest.join(" "), first] : [first, rest.join(" ")];
  const instance = { input: input.trim().replace(/^none\.?$/i, ""), output: output.trim() };
  return instance.output === "" || instance.output === instance.input ? undefined : instance;
}
