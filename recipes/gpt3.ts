/**
 * GPT-3 (Brown et al. 2020) on stories with small tasks among them: what a network does with examples in its prompt, by its size.
 *
 * The claim in miniature, figure 1.2 and section 3 of the paper: a language model picks up a task from examples in its context, without any
 * change of its weights; more examples help, and larger models make more of them. The tasks are synthetic: copy words of a list (which of
 * three places, in any order: 39 tasks for each of five kinds of words), sort it, count a word in it, look words up in a table of four
 * that only the document has, and call words of two kinds by two labels that only the document has. Each document is one task, as lines of
 * examples without a name or a mark between question and answer, so that a model without examples cannot know what is asked. Two kinds of
 * tasks are measured, on fresh examples: those of training, and held-out ones: orders of copying that occur in no document of training with
 * any words, and pairs of kinds of words that none looks up or labels.
 *
 * Three sizes with GPT-3's alternating banded and dense layers learn from the same documents in the same order. The band is two tokens
 * wide: a token sees itself and the one before, from which the dense layer above it finds where a word stood before and what came next
 * (the induction heads of Olsson et al. 2022). An answer therefore stands right behind its question: with an arrow between them the band did
 * not reach, and tables were not looked up. Training begins with rows of a few random words that come over and over, the plainest text
 * that rewards it; their share falls from all to a tenth. After 300 steps of nothing else, three layers of 64 had a loss of 1.41 on such
 * rows and went on to 0.006; with a band of 16 tokens they had 2.3. Words of a question are random, so that predicting them teaches nothing:
 * they have no part in the loss. First weights have a deviation of 1 / sqrt(width), for 0.02 is made for wide layers. An answer counts where
 * the likeliest token is right at every place of it.
 *
 * It shows. More examples help every size, on tasks of training (with none, one and eight: 1%, 17%, 44% of answers for 0.02M parameters;
 * 6%, 25%, 49% for 0.05M; 7%, 36%, 61% for 0.19M) and on held-out ones (1% to 41%, 45% and 44%). Size helps with tasks of training alone.
 * Tables are looked up (91% held out) and labels given (98%); new orders of copying and new sorts are not picked up.
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
const steps = smoke ? 6 : Math.round(1200 * scale);
const [batchSize, contextLength] = smoke ? [4, 80] : [32, 80];
/** Documents of stories among those of tasks. */
const storyShare = 0.1;
const shotCounts = [0, 1, 2, 4, 8] as const;
const mostShots = 8;
/** Questions of a family of tasks. */
const asks = smoke ? 2 : 150;

const sizes = smoke
  ? {
      tiny: { hiddenSize: 16, numLayers: 2, numHeads: 2 },
      small: { hiddenSize: 32, numLayers: 2, numHeads: 2 },
    }
  : {
      "2 layers of 16": { hiddenSize: 16, numLayers: 2, numHeads: 1 },
      "2 layers of 32": { hiddenSize: 32, numLayers: 2, numHeads: 2 },
      "3 layers of 64": { hiddenSize: 64, numLayers: 3, numHeads: 4 },
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
const allWords = [...Object.values(domains).flat(), ...good, ...bad];

interface Example {
  readonly question: readonly string[];
  readonly answer: readonly string[];
}

/** A task. What only one document has, such as a table, is drawn once for it. */
interface Task {
  readonly family: "copy" | "sort" | "count" | "look up" | "class";
  readonly name: string;
  readonly heldOut: boolean;
  /** Makes the examples of one document. */
  readonly begin: (random: Random) => () => Example;
}

const some = (random: Random, from: readonly string[], count: number): string[] =>
  [...random.permutation(from.length)].slice(0, count).map((index) => from[index]!);
const pick = <T>(random: Random, from: readonly T[]): T => from[random.integer(from.length)]!;

const tasks: Task[] = [];
/** Which words of a question are the answer: all lists of one to three of three places. */
const places = [1, 2, 3].flatMap((length) =>
  Array.from({ length: 3 ** length }, (_, code) =>
    Array.from({ length }, (_, at) => Math.floor(code / 3 ** at) % 3),
  ),
);
places.forEach((own, index) => {
  domainNames.forEach((domain) => {
    tasks.push({
      family: "copy",
      name: `${own.join("")} of ${domain}`,
      heldOut: index % 4 === 2,
      begin: (random) => () => {
        const question = some(random, domains[domain], 3);
        return { question, answer: own.map((place) => question[place]!) };
      },
    });
  });
});
const sorts: Readonly<Record<string, (sorted: readonly string[]) => readonly string[]>> = {
  ascending: (sorted) => sorted,
  descending: (sorted) => sorted.toReversed(),
  smallest: (sorted) => sorted.slice(0, 1),
  largest: (sorted) => sorted.slice(-1),
};
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
    const heldOut = place === (index + 1) % domainNames.length;
    tasks.push({
      family: "look up",
      name: `${from} to ${to}`,
      heldOut,
      begin: (random) => {
        const [keys, values] = [some(random, domains[from], 4), some(random, domains[to], 4)];
        return () => {
          const at = random.integer(4);
          return { question: [keys[at]!], answer: [values[at]!] };
        };
      },
    });
    // Words of two kinds, called by two words of a third.
    for (const [kind, [one, other]] of Object.entries({
      mood: [good, bad],
      ...(index < place && { kind: [domains[from], domains[to]] }),
    }) as [string, [readonly string[], readonly string[]]][])
      tasks.push({
        family: "class",
        name: `${kind} of ${from}, ${to}`,
        heldOut,
        begin: (random) => {
          const names = kind === "mood" ? [domains[from], domains[to]] : [good, bad];
          const labels = names.map((list) => pick(random, list));
          if (random.integer(2) === 1) labels.reverse();
          return () => {
            const side = random.integer(2);
            return { question: [pick(random, [one, other][side]!)], answer: [labels[side]!] };
          };
        },
      });
  });
});

const trained = tasks.filter(({ heldOut }) => !heldOut);
const families = [...new Set(tasks.map(({ family }) => family))];
const ownTasks = families.map((family) => trained.filter((task) => task.family === family));

// ---- Text -------------------------------------------------------------------------------------------------------------

const storyTexts = [...stories({ seed: 1, count: smoke ? 200 : 3000 })];
const tokenizer = trainByteLevelBpe(
  // Every word of the tasks is a token of its own.
  [...storyTexts.slice(0, 60), ...Array.from({ length: 200 }, () => ` ${allWords.join(" ")}`)],
  { vocabSize: 600 },
);
const storyTokens = Int32Array.from(storyTexts.flatMap((text) => [...tokenizer.encode(text)]));
const idOf = new Map(
  ["\n", ...allWords.map((word) => ` ${word}`)].map((word) => {
    const ids = tokenizer.encode(word);
    if (ids.length !== 1) throw new Error(`the tokenizer has no token for ${JSON.stringify(word)}`);
    return [word.trim(), ids[0]!];
  }),
);
const idsOf = (list: readonly string[]): number[] => list.map((word) => idOf.get(word)!);
const asked = ({ question }: Example): number[] => idsOf(question);
const answered = ({ answer }: Example): number[] => idsOf([...answer, ""]);

/** A row, one token longer than what the model reads, and which of its tokens are to be predicted. */
interface Row {
  readonly tokens: readonly number[];
  readonly counts: readonly boolean[];
}

/** Examples of one task. */
function taskRow(random: Random): Row {
  const next = pick(random, pick(random, ownTasks)).begin(random);
  const [tokens, counts]: [number[], boolean[]] = [[], []];
  while (tokens.length <= contextLength) {
    const example = next();
    const [question, answer] = [asked(example), answered(example)];
    tokens.push(...question, ...answer);
    counts.push(...question.map(() => false), ...answer.map(() => true));
  }
  return { tokens, counts };
}

/** A few random words, over and over. */
function repeatedRow(random: Random): Row {
  const length = 3 + random.integer(8);
  const own = idsOf(some(random, allWords, length));
  const tokens = Array.from({ length: contextLength + 1 }, (_, at) => own[at % length]!);
  return { tokens, counts: tokens.map((_, at) => at > length) };
}

/** Share of the rows of random words among those without stories, by the part of the training that is over: all, then a tenth. */
const repeatedShare = (done: number): number => Math.max(0.1, 1 - done / 0.35);

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
        const repeats = repeatedShare(this.rows / (batchSize * steps));
        const { tokens, counts } = (random.uniform() < repeats ? repeatedRow : taskRow)(random);
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

/** So many questions of each family, of tasks of training and of others. */
const questions = families.flatMap((family) =>
  [false, true].flatMap((heldOut) => {
    const own = tasks.filter((task) => task.family === family && task.heldOut === heldOut);
    return Array.from({ length: asks }, (_, index): Question[] => {
      const random = new Random(3).fork(`${family} ${heldOut} ${index}`);
      const next = pick(random, own).begin(random);
      const examples = Array.from({ length: mostShots }, next);
      const last = next();
      // The same question after the last of the same examples.
      return shotCounts.map((shots) => {
        const before = examples
          .slice(mostShots - shots)
          .flatMap((example) => [...asked(example), ...answered(example)]);
        const prompt = [...before, ...asked(last)];
        return { family, heldOut, shots, ids: [...prompt, ...answered(last)], from: prompt.length };
      });
    }).flat();
  }),
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
      slidingWindow: 2,
      layerTypes: Array.from({ length: shape.numLayers }, (_, layer) =>
        layer % 2 === 0 ? ("sliding_attention" as const) : ("full_attention" as const),
      ),
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
