/**
 * GPT-3 (Brown et al. 2020) on stories with small tasks among them: what a network does with examples in its prompt, by its size.
 *
 * The claim in miniature, figure 1.2 and section 3 of the paper: a language model picks up a task from examples in its context, without any
 * change of its weights; more examples help, and larger models make more of them. The tasks are synthetic: copy parts of a list, sort it,
 * count a symbol in it, look words up in a table that only the document has, and call words good or bad by labels that only the document
 * has. Each document is one task, as lines of examples without a name, so that a model without examples cannot know what is asked. Two
 * kinds of tasks are measured, on fresh examples: those of training, and held-out ones, whose combinations of a kind of words and something
 * to do with them occur in no document of training (`reverse animals`, where `reverse colours` and `first animals` do).
 *
 * Three sizes with GPT-3's alternating dense and banded layers learn from the same documents in the same order. Words of a question are
 * random, so that predicting them teaches nothing: they have no part in the loss. First weights have a deviation of 1 / sqrt(width), for
 * 0.02 is made for wide layers: with it four layers of 64 came to a loss of 1.75 in 500 steps, and without it to 1.46. An answer counts where
 * the likeliest token is right at every place of it.
 *
 * The claim shows in part. Tasks of training go from 16% without examples to 40% with eight, held-out ones from 6% to 22-27%, but nearly all
 * of that comes with the first example, which shows what an answer looks like. 0.22M parameters make more of examples than 0.06M (39% and
 * 27%), 0.55M no more than 0.22M. Sorting is what they pick up (27% to 81%). Looking up stays at the third that a guess among three values
 * gives, sentiment at a half: circuits that copy from an earlier line do not form in 1,000 steps, nor did they in 2,000.
 *
 *   node dist/recipes/gpt3.js [--out FOLDER] [--scale X] [--threads N] [--smoke]
 */
import path from "node:path";
import { Random } from "../src/base/random.js";
import { type Batch, type BatchSource, stories, tokenBatch } from "../src/data/index.js";
import { compile, input } from "../src/graph/index.js";
import { Gpt3, gpt3Config } from "../src/models/index.js";
import { Weights, countParameters, namedParameters } from "../src/nn/index.js";
import { nextTokenObjective } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { trainByteLevelBpe } from "../src/tokenizers/index.js";
import { type Curve, Trainer, adamW, schedule } from "../src/training/index.js";
import { millions, percent, plot, printTable, recipeOptions } from "./recipe.js";

const { out, smoke, scale, threads } = recipeOptions("gpt3");
const steps = smoke ? 6 : Math.round(1000 * scale);
const [batchSize, contextLength] = smoke ? [4, 80] : [32, 80];
/** Documents of stories among those of tasks. */
const storyShare = 0.2;
const shotCounts = [0, 1, 2, 4, 8] as const;
const mostShots = 8;
/** Questions of a task. */
const asks = smoke ? 2 : 30;

const sizes = smoke
  ? {
      tiny: { hiddenSize: 16, numLayers: 2, numHeads: 2 },
      small: { hiddenSize: 32, numLayers: 2, numHeads: 2 },
    }
  : {
      "2 layers of 32": { hiddenSize: 32, numLayers: 2, numHeads: 2 },
      "3 layers of 64": { hiddenSize: 64, numLayers: 3, numHeads: 4 },
      "4 layers of 96": { hiddenSize: 96, numLayers: 4, numHeads: 6 },
    };

// ---- Tasks ------------------------------------------------------------------------------------------------------------

const words = (text: string): readonly string[] => text.split(" ");
const domains = {
  letters: words("a b c d e f g h k m n p r s t w"),
  digits: words("0 1 2 3 4 5 6 7 8 9"),
  animals: words("fox bear wolf duck goat deer hare lion mole crow frog swan"),
  colours: words("red blue green pink grey black white brown gold tan navy lime"),
  foods: words("bread rice plum milk cake soup corn pear nut salt jam bean"),
} as const;
type Domain = keyof typeof domains;
const domainNames = Object.keys(domains) as Domain[];
const good = words("happy great lovely kind nice fine brave sweet merry bright calm warm");
const bad = words("sad awful nasty cruel mean poor scared bitter angry dull cold dark");

interface Example {
  readonly question: readonly string[];
  readonly answer: readonly string[];
}

/** A task. What only one document has, such as a table, is drawn once for it. */
interface Task {
  readonly family: "copy" | "sort" | "count" | "look up" | "sentiment";
  readonly name: string;
  readonly heldOut: boolean;
  /** Makes the examples of one document. */
  readonly begin: (random: Random) => () => Example;
}

const some = (random: Random, from: readonly string[], count: number): string[] =>
  [...random.permutation(from.length)].slice(0, count).map((index) => from[index]!);
const pick = (random: Random, from: readonly string[]): string => from[random.integer(from.length)]!;

const copies: Readonly<Record<string, (list: readonly string[]) => readonly string[]>> = {
  all: (list) => list,
  first: (list) => list.slice(0, 1),
  second: (list) => list.slice(1, 2),
  last: (list) => list.slice(-1),
  reverse: (list) => list.toReversed(),
};
const sorts: Readonly<Record<string, (sorted: readonly string[]) => readonly string[]>> = {
  ascending: (sorted) => sorted,
  descending: (sorted) => sorted.toReversed(),
  smallest: (sorted) => sorted.slice(0, 1),
  largest: (sorted) => sorted.slice(-1),
};
const tasks: Task[] = [];
Object.entries(copies).forEach(([what, part], place) => {
  domainNames.forEach((domain, index) => {
    tasks.push({
      family: "copy",
      name: `${what} of ${domain}`,
      heldOut: index === place,
      begin: (random) => () => {
        const question = some(random, domains[domain], 3);
        return { question, answer: part(question) };
      },
    });
  });
});
Object.entries(sorts).forEach(([what, part], place) => {
  (["letters", "digits"] as const).forEach((domain, index) => {
    tasks.push({
      family: "sort",
      name: `${what} of ${domain}`,
      heldOut: place === 3 * index,
      begin: (random) => () => {
        const question = some(random, domains[domain], 3);
        return { question, answer: part(question.toSorted()) };
      },
    });
  });
});
for (const domain of domainNames.filter((name) => name !== "digits"))
  tasks.push({
    family: "count",
    name: `count of ${domain}`,
    heldOut: domain === "foods",
    begin: (random) => {
      const [counted, other] = some(random, domains[domain], 2) as [string, string];
      return () => {
        const question = Array.from({ length: 4 }, () => (random.integer(2) === 0 ? counted : other));
        return { question, answer: [String(question.filter((word) => word === counted).length)] };
      };
    },
  });
domainNames.forEach((from, index) => {
  domainNames.forEach((to, place) => {
    if (from === to) return;
    tasks.push({
      family: "look up",
      name: `${from} to ${to}`,
      heldOut: place === (index + 1) % domainNames.length,
      begin: (random) => {
        const [keys, values] = [some(random, domains[from], 3), some(random, domains[to], 3)];
        return () => {
          const at = random.integer(3);
          return { question: [keys[at]!], answer: [values[at]!] };
        };
      },
    });
  });
});
for (const domain of domainNames)
  tasks.push({
    family: "sentiment",
    name: `sentiment as ${domain}`,
    heldOut: domain === "colours",
    begin: (random) => {
      const labels = some(random, domains[domain], 2);
      return () => {
        const side = random.integer(2);
        return { question: [pick(random, [good, bad][side]!)], answer: [labels[side]!] };
      };
    },
  });

const trained = tasks.filter(({ heldOut }) => !heldOut);
const families = [...new Set(tasks.map(({ family }) => family))];
const asked = ({ question }: Example): string => ` ${question.join(" ")} ->`;
const answered = ({ answer }: Example): string => ` ${answer.join(" ")}\n`;

// ---- Text -------------------------------------------------------------------------------------------------------------

/** Examples of a document of one task, without end. */
function documentOf(random: Random): () => Example {
  const family = pick(random, families);
  const own = trained.filter((task) => task.family === family);
  return own[random.integer(own.length)]!.begin(random);
}

const storyTexts = [...stories({ seed: 1, count: smoke ? 200 : 3000 })];
const tokenizer = trainByteLevelBpe(
  [
    ...storyTexts.slice(0, 300),
    ...Array.from({ length: 500 }, (_, index) =>
      Array.from({ length: 10 }, documentOf(new Random(1).fork(`tokenizer ${index}`)))
        .map((example) => asked(example) + answered(example))
        .join(""),
    ),
  ],
  { vocabSize: smoke ? 600 : 1000 },
);
const storyTokens = Int32Array.from(storyTexts.flatMap((text) => [...tokenizer.encode(text)]));

/** A row of examples of one task, one token longer than what the model reads, and which of its tokens are to be predicted. */
function taskRow(random: Random): {
  readonly tokens: readonly number[];
  readonly counts: readonly boolean[];
} {
  const next = documentOf(random);
  const [tokens, counts]: [number[], boolean[]] = [[], []];
  while (tokens.length <= contextLength) {
    const example = next();
    const [question, answer] = [tokenizer.encode(asked(example)), tokenizer.encode(answered(example))];
    tokens.push(...question, ...answer);
    counts.push(...question.map(() => false), ...answer.map(() => true));
  }
  return { tokens, counts };
}

/** Rows that are documents of tasks from their beginning, or pieces of stories; row after row drawn from a seed and its number. */
class Documents implements BatchSource {
  private rows = 0;

  next(): Batch {
    const shape = [batchSize, contextLength] as const;
    const [inputs, labels] = [
      new Int32Array(batchSize * contextLength),
      new Int32Array(batchSize * contextLength),
    ];
    for (let row = 0; row < batchSize; row++) {
      const random = new Random(2).fork(`row ${this.rows++}`);
      const from = row * contextLength;
      if (random.uniform() < storyShare) {
        const start = random.integer(storyTokens.length - contextLength);
        inputs.set(storyTokens.subarray(start, start + contextLength), from);
        labels.set(storyTokens.subarray(start + 1, start + contextLength + 1), from);
      } else {
        const { tokens, counts } = taskRow(random);
        inputs.set(tokens.slice(0, contextLength), from);
        for (let i = 0; i < contextLength; i++) labels[from + i] = counts[i + 1] ? tokens[i + 1]! : -100;
      }
    }
    return tokenBatch(inputs, labels, shape);
  }
  get state(): unknown {
    return this.rows;
  }
  restore(state: unknown): void {
    this.rows = state as number;
  }
}

// ---- Questions after some examples ------------------------------------------------------------------------------------

interface Question {
  readonly family: string;
  readonly heldOut: boolean;
  readonly shots: number;
  readonly ids: readonly number[];
  /** Where the answer begins among the ids, which end with it. */
  readonly from: number;
}

const questions = tasks.flatMap((task) =>
  Array.from({ length: asks }, (_, index): Question[] => {
    const next = task.begin(new Random(3).fork(`${task.name} ${index}`));
    const examples = Array.from({ length: mostShots }, next);
    const last = next();
    // The same question after the last of the same examples.
    return shotCounts.map((shots) => {
      const before = examples.slice(mostShots - shots).map((example) => asked(example) + answered(example));
      const prompt = tokenizer.encode(before.join("") + asked(last));
      const { family, heldOut: unseen } = task;
      const ids = [...prompt, ...tokenizer.encode(answered(last))];
      return { family, heldOut: unseen, shots, ids, from: prompt.length };
    });
  }).flat(),
);

const runtime = createRuntime({ threads });

/** Which questions a model answers. */
async function answers(model: Gpt3, weights: Weights): Promise<boolean[]> {
  namedParameters(model);
  const ids = input("inputIds", "int32", ["batch", contextLength]);
  using program = await compile(
    runtime,
    { logits: model.logits(model.hiddenStates(ids)) },
    { name: "answers" },
  );
  const correct: boolean[] = [];
  const vocabSize = tokenizer.vocabSize;
  for (let start = 0; start < questions.length; start += 64) {
    const part = questions.slice(start, start + 64);
    const rows = new Int32Array(part.length * contextLength);
    part.forEach((question, row) => {
      rows.set(question.ids, row * contextLength);
    });
    using inputIds = runtime.createTensor("int32", [part.length, contextLength], rows);
    using logits = (await program.run({ ...weights.tensors, inputIds }))["logits"]!;
    const values = logits.view() as Float32Array;
    part.forEach((question, row) => {
      const likeliest = (place: number): number => {
        const at = (row * contextLength + place) * vocabSize;
        return values
          .subarray(at, at + vocabSize)
          .reduce((best, value, id, all) => (value > all[best]! ? id : best), 0);
      };
      correct.push(question.ids.every((id, place) => place < question.from || likeliest(place - 1) === id));
    });
  }
  return correct;
}

const share = (values: readonly boolean[]): number => values.filter(Boolean).length / values.length;

// ---- Three sizes, the same documents ----------------------------------------------------------------------------------

const longest = Math.max(...questions.map(({ ids }) => ids.length));
if (longest > contextLength) throw new Error(`a question of ${longest} tokens does not fit ${contextLength}`);
console.log(
  `${trained.length} tasks in training, ${tasks.length - trained.length} held out; vocabulary ${tokenizer.vocabSize}; questions of at most ${longest} tokens`,
);

const curves: Curve[] = [];
const [ofTrained, ofHeldOut]: [string[][], string[][]] = [[], []];
const byFamily: string[][] = families.map((family) => [family]);
for (const [label, shape] of Object.entries(sizes)) {
  const model = new Gpt3(
    gpt3Config({
      ...shape,
      vocabSize: tokenizer.vocabSize,
      contextLength,
      slidingWindow: contextLength / 2,
      initializerRange: shape.hiddenSize ** -0.5,
    }),
  );
  using weights = Weights.initialize(runtime, model, 1);
  using trainer = await Trainer.create({
    objective: nextTokenObjective(model, { batchSize, sequenceLength: contextLength }),
    weights,
    source: new Documents(),
    optimizer: (...buffers) => adamW(...buffers, { betas: [0.9, 0.95], weightDecay: 0.1 }),
    schedule: schedule("cosine", {
      learningRate: 3e-3,
      warmupSteps: Math.floor(steps / 20),
      totalSteps: steps,
      minimum: 3e-4,
    }),
    seed: 1,
  });
  let [seconds, loss] = [0, 0];
  for (let step = 1; step <= steps; step++) {
    const report = await trainer.step();
    seconds += report.seconds;
    loss += (report.loss - loss) / Math.min(step, 50);
    if (step % Math.ceil(steps / 8) === 0 || step === steps)
      process.stderr.write(
        `${label}: step ${step} of ${steps}, loss ${loss.toFixed(4)}, ${seconds.toFixed(0)} s\n`,
      );
  }
  const correct = await answers(model, weights);
  const accuracy = (heldOut: boolean, shots: number, family?: string): number =>
    share(
      correct.filter((_, index) => {
        const question = questions[index]!;
        return (
          question.shots === shots &&
          question.heldOut === heldOut &&
          (family === undefined || question.family === family)
        );
      }),
    );
  const size = `${label}, ${millions(countParameters(model))}`;
  for (const [table, heldOut, name] of [
    [ofTrained, false, "trained"],
    [ofHeldOut, true, "held out"],
  ] as const) {
    curves.push({
      label: `${label}, ${name}`,
      points: shotCounts.map((shots) => ({ step: shots, loss: 100 * accuracy(heldOut, shots) })),
    });
    table.push([
      size,
      ...shotCounts.map((shots) => percent(accuracy(heldOut, shots))),
      loss.toFixed(3),
      seconds.toFixed(0),
    ]);
  }
  families.forEach((family, index) => {
    const grown = [false, true].map((heldOut) =>
      [0, mostShots].map((shots) => percent(accuracy(heldOut, shots, family))).join(" to "),
    );
    byFamily[index]!.push(...grown);
  });
}

const columns = [...shotCounts.map((shots) => `${shots} shots`), "loss", "seconds"];
printTable(["tasks of training, answers right", ...columns], ofTrained);
printTable(["held-out tasks, answers right", ...columns], ofHeldOut);
printTable(
  ["0 to 8 shots", ...Object.keys(sizes).flatMap((label) => [`${label}, trained`, "held out"])],
  byFamily,
);
await plot(
  path.join(out, "shots.svg"),
  "GPT-3 in small: answers by size and examples in the prompt",
  curves,
  {
    x: "examples in the prompt",
    y: "answers right, %",
  },
);
