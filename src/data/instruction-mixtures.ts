import { LineageError } from "../base/errors.js";
import { Random, drawIndex } from "../base/random.js";
import type { Conversation } from "./conversation.js";
import { mixingRates } from "./mixing.js";

// Instruction tuning over many tasks: FLAN, Wei et al. 2022; Chung et al. 2022; Longpre et al. 2023.

/** A way to ask about an example and to answer it: `{name}` stands for the example's field. */
export interface InstructionTemplate {
  readonly prompt: string;
  readonly answer: string;
}

/** A task with its examples and the ways to put it. */
export interface MixtureTask {
  readonly name: string;
  readonly examples: readonly Readonly<Record<string, string>>[];
  readonly templates: readonly InstructionTemplate[];
  /** Templates that ask for what others give: from the answer back to the question. */
  readonly inverted?: readonly InstructionTemplate[];
  /** Templates whose answers say their reasons first, for examples that have them. */
  readonly chainOfThought?: readonly InstructionTemplate[];
}

export interface MixtureOptions {
  /** Rows to draw. */
  readonly count: number;
  readonly seed: number;
  /** Examples that a task counts for at most when its share is taken. Wei et al.: 3,000. */
  readonly cap?: number;
  /** Share of rows with solved examples before the question. Default 0.5. */
  readonly fewShot?: number;
  /** Solved examples of such a row, drawn from 1 to this. Default 5. */
  readonly shots?: number;
  /** Share of rows of a task with inverted templates that use one. Default 0.1. */
  readonly inverted?: number;
  /** Share of rows of a task with reasons that give them. Default 0.5. */
  readonly chainOfThought?: number;
}

/** The template with an example's fields. Throws `data` for a field that the example has not. */
export const fillTemplate = (text: string, example: Readonly<Record<string, string>>): string =>
  text.replace(/\{(\w+)\}/g, (_, name: string) => {
    if (!Object.hasOwn(example, name))
      throw new LineageError(
        "data",
        `an example has no field ${name}; it has ${Object.keys(example).join(", ")}`,
      );
    return example[name]!;
  });

const fits = ({ prompt, answer }: InstructionTemplate, example: Readonly<Record<string, string>>): boolean =>
  [...`${prompt} ${answer}`.matchAll(/\{(\w+)\}/g)].every(([, name]) => Object.hasOwn(example, name!));

/** Shares of tasks: in proportion to their examples, of which each counts `cap` at most. Wei et al. 2022, section 2.3. */
export const mixtureRates = (tasks: readonly MixtureTask[], cap = 3000): number[] =>
  mixingRates(
    tasks.map(({ examples }) => examples.length),
    { limit: cap },
  );

/**
 * Rows of a mixture, each a conversation of one exchange: a task drawn by its share, an example, and a template; some with
 * solved examples of the same template before it, some inverted, some with reasons.
 */
export function instructionMixture(
  tasks: readonly MixtureTask[],
  { count, seed, cap, fewShot = 0.5, shots = 5, inverted = 0.1, chainOfThought = 0.5 }: MixtureOptions,
): Conversation[] {
  const rates = mixtureRates(tasks, cap);
  const random = new Random(seed).fork("instruction mixture");
  const known = new Map<InstructionTemplate, MixtureTask["examples"]>();
  const fitting = (task: MixtureTask, template: InstructionTemplate) => {
    const found = known.get(template) ?? task.examples.filter((example) => fits(template, example));
    known.set(template, found);
    return found;
  };
  return Array.from({ length: count }, (_, row) => {
    const draw = random.fork(row);
    const task = tasks[drawIndex(rates, draw)]!;
    const example = task.examples[draw.integer(task.examples.length)]!;
    const template = chosenTemplate(task, example, draw, { inverted, chainOfThought });
    const solved =
      draw.uniform() < fewShot ? shown(fitting(task, template), example, 1 + draw.integer(shots), draw) : [];
    return { row: row + 1, messages: exchangeOf(template, example, solved) };
  });
}

/** A question, after solved examples of the same template, and its answer. */
export function exchangeOf(
  { prompt, answer }: InstructionTemplate,
  example: Readonly<Record<string, string>>,
  solved: readonly Readonly<Record<string, string>>[] = [],
): Conversation["messages"] {
  const before = solved.map((one) => `${fillTemplate(prompt, one)}\n${fillTemplate(answer, one)}\n\n`);
  return [
    { role: "user", content: before.join("") + fillTemplate(prompt, example) },
    { role: "assistant", content: fillTemplate(answer, example) },
  ];
}

function chosenTemplate(
  task: MixtureTask,
  example: Readonly<Record<string, string>>,
  draw: Random,
  shares: { readonly inverted: number; readonly chainOfThought: number },
): InstructionTemplate {
  for (const kind of ["inverted", "chainOfThought"] as const) {
    const own = (task[kind] ?? []).filter((template) => fits(template, example));
    if (own.length > 0 && draw.uniform() < shares[kind]) return own[draw.integer(own.length)]!;
  }
  const plain = task.templates.filter((template) => fits(template, example));
  if (plain.length === 0)
    throw new LineageError(
      "data",
      `no template of ${task.name} fits an example with ${Object.keys(example).join(", ")}`,
    );
  return plain[draw.integer(plain.length)]!;
}

/** Some examples besides the one that is asked about. */
function shown(
  examples: MixtureTask["examples"],
  asked: MixtureTask["examples"][number],
  count: number,
  draw: Random,
): MixtureTask["examples"] {
  if (examples.length < 2) return [];
  const place = examples.indexOf(asked);
  return Array.from({ length: count }, () => {
    const drawn = draw.integer(place < 0 ? examples.length : examples.length - 1);
    return examples[place >= 0 && drawn >= place ? drawn + 1 : drawn]!;
  });
}
