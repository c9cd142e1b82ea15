import { Command } from "commander";
import path from "node:path";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { readText } from "../base/files.js";
import { stories, documentsOf, splitDocuments } from "../data/index.js";
import { Weights, countParameters } from "../nn/index.js";
import { savePretrained } from "../checkpoints/index.js";
import { type SystemName, systems, systemsOfKind } from "../models/index.js";
import type { LanguageCorpus, ParallelCorpus, PretrainingCorpus } from "../objectives/index.js";
import { trainTokenizer } from "../tokenizers/index.js";
import { createRuntime } from "../runtime/index.js";
import { type TrainingResult, adamW, evaluate, runTraining, schedule } from "../training/index.js";
import { examples, libraryOptions, option } from "./options.js";
import { progressObserver } from "./progress.js";
import { count } from "./terminal.js";
import { type Run, type RunCommand, addRunOptions, runInFolder, runShape, tellEnd } from "./training.js";
import { loadTokenizer, writeTokenizer } from "../formats/index.js";

const pretrainingModels = systemsOfKind("encoder").map(({ name }) => name) as [
  SystemName<"encoder">,
  ...SystemName<"encoder">[],
];

/** Everything that decides a run; kept beside the checkpoint so that `--resume` needs nothing else. */
export const pretrainOptions = z.object({
  ...runShape,
  model: z.enum(pretrainingModels),
  /** Text files, each `file` or `language=file`; or `stories` for the embedded corpus. */
  data: z.array(z.string()).min(1),
  /** Pairs of files with one sentence a line: `en=train.en,de=train.de`. */
  parallel: z.array(z.string()).default([]),
  /** A folder with a tokenizer. Default: the system's own kind is trained on the data. */
  tokenizer: z.string().optional(),
  vocabSize: z.int().min(64).default(4096),
  context: z.int().min(16).default(128),
  dropout: z.number().min(0).lt(1).default(0.1),
  learningRate: z.number().positive().default(1e-3),
  weightDecay: z.number().nonnegative().default(0.01),
  validation: z.number().positive().lt(1).default(0.05),
});
export type PretrainOptions = z.infer<typeof pretrainOptions>;

/** Stories of the embedded corpus: enough that a run of minutes sees each about once. */
const embeddedStories = 6000;

/** Pretrains an encoder on its own objective. Ctrl-C saves; `resume` goes on to exactly the same losses. */
export const pretrain = (
  given: z.input<typeof pretrainOptions> | undefined,
  command: RunCommand,
): Promise<TrainingResult> =>
  runInFolder(pretrainOptions, given, command, (started) => run(started, command.threads));

async function run(started: Run<PretrainOptions>, threads?: number): Promise<TrainingResult> {
  const { folder, report, signal } = started;
  const { options, path: out } = folder;
  const system = systems[options.model];
  const { training, heldOut } = await readCorpus(options);
  const tokenizer = folder.resuming
    ? await loadTokenizer(out)
    : options.tokenizer === undefined
      ? trainTokenizer(system.tokenizer, textsOf(training), options.vocabSize)
      : await loadTokenizer(options.tokenizer);
  // Kept from the start: a run that is interrupted before its first evaluation goes on with the same tokens.
  if (!folder.resuming) await writeTokenizer(tokenizer, out);
  const documents = (corpus: PretrainingCorpus) =>
    corpus.languages.reduce((sum, language) => sum + language.documents.length, 0);
  report.say(
    `corpus: ${count(documents(training))} documents to train on, ${count(documents(heldOut))} held out` +
      `${describeLanguages(training)}; vocabulary ${count(tokenizer.vocabSize)}`,
    { trainingDocuments: documents(training), heldOutDocuments: documents(heldOut) },
  );

  const runtime = createRuntime({ threads });
  const {
    model,
    objective,
    source,
    heldOut: batches,
    networks,
  } = system.pretraining.prepare({
    tokenizer,
    training,
    heldOut,
    hiddenSize: options.hidden,
    numLayers: options.layers,
    numHeads: options.heads,
    contextLength: options.context,
    dropout: options.dropout,
    batchSize: options.batch,
    seed: options.seed,
  });
  const size = countParameters(model);
  report.say(
    `model: ${system.title} with ${count(size)} parameters (${options.layers} layers, ${options.hidden} wide, ` +
      `${options.heads} heads); objective: ${system.pretraining.objective}`,
    { parameters: size },
  );
  using weights = Weights.initialize(runtime, model, options.seed);
  const { learningRate, steps } = options;
  const result = await runTraining({
    folder,
    objective,
    weights,
    source,
    accumulation: options.accumulate,
    clipNorm: options.clip,
    seed: options.seed,
    schedule: schedule("linear", {
      learningRate,
      warmupSteps: options.warmup ?? Math.floor(steps / 10),
      totalSteps: steps,
      minimum: 0,
    }),
    optimizer: (...buffers) => adamW(...buffers, { betas: [0.9, 0.98], weightDecay: options.weightDecay }),
    steps,
    evalEvery: options.evalEvery,
    patience: options.patience,
    evaluate: async (kept, { signal: stop }) => {
      const { loss, parts } = await evaluate(objective, kept, batches(), { signal: stop });
      return { loss, ...(Object.keys(parts).length > 1 ? parts : {}) };
    },
    save: (kept) => savePretrained(out, networks, tokenizer, kept),
    signal,
    observer: progressObserver(report),
  });
  tellEnd(started, result, {
    command: "pretrain",
    made: (best) => `the encoder (best held-out loss ${best.toFixed(4)}), its tokenizer and loss.svg`,
  });
  return result;
}

function describeLanguages({ languages, parallel = [] }: PretrainingCorpus): string {
  if (languages.length < 2) return "";
  const pairs = parallel.reduce((sum, corpus) => sum + corpus.pairs.length, 0);
  return ` in ${languages.map(({ name }) => name).join(", ")}${pairs > 0 ? ` and ${count(pairs)} translated sentences` : ""}`;
}

function* textsOf({ languages, parallel = [] }: PretrainingCorpus): Generator<string> {
  for (const { documents } of languages) for (const document of documents) yield document.join(" ");
  for (const { pairs } of parallel) for (const pair of pairs) yield* pair;
}

/** Texts by language, and translations, each cut into what is learned from and what is held out. */
async function readCorpus(
  options: PretrainOptions,
): Promise<{ training: PretrainingCorpus; heldOut: PretrainingCorpus }> {
  const named = options.data.map((entry) => {
    const [, language, file] = /^(\w+)=(.+)$/.exec(entry) ?? [undefined, undefined, entry];
    return { language, file };
  });
  const languageless = named.find(({ language }) => language === undefined);
  if (options.parallel.length > 0 && options.model !== "xlm")
    throw new LineageError("argument", `only xlm learns from --parallel; leave it out for ${options.model}`);
  if (languageless && named.some(({ language }) => language !== undefined))
    throw new LineageError(
      "argument",
      `--data ${languageless.file} names no language, but other files do; write --data LANGUAGE=${languageless.file}`,
    );
  const training: LanguageCorpus[] = [];
  const heldOut: LanguageCorpus[] = [];
  for (const name of new Set(named.map(({ language = "" }) => language))) {
    const files = named.filter(({ language = "" }) => language === name).map(({ file }) => file);
    const documents = (await Promise.all(files.map((file) => readDocuments(file, options.seed)))).flat();
    const parts = splitDocuments(documents, options.validation, files.join(", "));
    training.push({ name, documents: parts.training });
    heldOut.push({ name, documents: parts.heldOut });
  }
  const parallel = await Promise.all(
    options.parallel.map((entry) =>
      readParallel(
        entry,
        training.map(({ name }) => name),
      ),
    ),
  );
  const cut = (pick: "training" | "heldOut"): ParallelCorpus[] =>
    parallel.map(({ languages, pairs }) => ({
      languages,
      pairs: splitDocuments(pairs, options.validation, options.parallel.join(", "))[pick],
    }));
  return {
    training: { languages: training, parallel: cut("training") },
    heldOut: { languages: heldOut, parallel: cut("heldOut") },
  };
}

async function readDocuments(file: string, seed: number): Promise<string[][]> {
  if (file === "stories")
    return [...stories({ seed, count: embeddedStories })].flatMap((story) => documentsOf(story));
  const documents = documentsOf(await readText(file));
  if (documents.length === 0) throw new LineageError("data", `${file} is empty; give a file with text`);
  return documents;
}

/** `en=train.en,de=train.de`: two files whose lines translate one another. */
async function readParallel(entry: string, languages: readonly string[]): Promise<ParallelCorpus> {
  const sides = entry.split(",").map((part) => part.split("="));
  if (sides.length !== 2 || sides.some((side) => side.length !== 2 || side.includes("")))
    throw new LineageError(
      "argument",
      `--parallel must be two languages with their files, such as en=train.en,de=train.de, not ${JSON.stringify(entry)}`,
    );
  const numbers = sides.map(([language]) => {
    const index = languages.indexOf(language!);
    if (index < 0)
      throw new LineageError(
        "argument",
        `--parallel names the language ${language}, which has no text; add --data ${language}=FILE`,
      );
    return index;
  }) as [number, number];
  const [left, right] = (await Promise.all(
    sides.map(async ([, file]) => (await readText(file!)).trimEnd().split("\n")),
  )) as [string[], string[]];
  if (left.length !== right.length)
    throw new LineageError(
      "data",
      `${path.basename(sides[0]![1]!)} has ${left.length} lines, but ${path.basename(sides[1]![1]!)} has ${right.length}; each line needs its translation`,
    );
  const pairs = left
    .map((text, line): [string, string] => [text.trim(), right[line]!.trim()])
    .filter(([a, b]) => a !== "" && b !== "");
  return { languages: numbers, pairs };
}

const of = libraryOptions(pretrainOptions.shape);

export const pretrainCommand = new Command("pretrain")
  .description("pretrain an encoder from scratch on its own objective")
  .optionsGroup("Data:")
  .addOption(
    option(
      "data",
      "<file>",
      'UTF-8 text, or "stories" for the embedded corpus; for XLM language=file; may be repeated',
      z.string(),
      { again: true, required: true },
    ),
  )
  .addOption(
    option(
      "parallel",
      "<files>",
      "translations for XLM, one sentence a line: en=train.en,de=train.de; may be repeated",
      z.string(),
      { again: true },
    ),
  )
  .addOption(of("validation", "<p>", "share of the documents that is held out"))
  .addOption(of("tokenizer", "<folder>", "folder of a tokenizer", { usual: "one is trained on the data" }))
  .addOption(of("vocabSize", "<n>", "tokens of the vocabulary that is learned"))
  .optionsGroup("Model:")
  .addOption(of("model", "<name>", "architecture", { required: true }))
  .addOption(of("context", "<n>", "context length in tokens"))
  .addOption(of("layers", "<n>", "number of layers"))
  .addOption(of("hidden", "<n>", "width of the hidden states"))
  .addOption(of("heads", "<n>", "attention heads"))
  .addOption(of("dropout", "<p>", "dropout probability"));
addRunOptions(pretrainCommand, of, { usualWarmup: "a tenth of the steps", out: "runs/encoder" })
  .addHelpText(
    "after",
    examples(
      ["lineage pretrain --model bert --data my.txt --out runs/bert", "masked tokens and next sentence"],
      ["lineage pretrain --resume --out runs/bert", "continue after Ctrl-C, with the same losses"],
      [
        "lineage pretrain --model xlm --data en=a.en --data de=a.de --parallel en=b.en,de=b.de",
        "two languages and their translations",
      ],
    ),
  )
  .action(async ({ out, resume, json, threads, ...options }: Record<string, unknown>) => {
    if (!resume && options["model"] === undefined)
      throw new LineageError("argument", `pretrain needs --model, one of ${pretrainingModels.join(", ")}`);
    if (!resume && options["data"] === undefined)
      throw new LineageError(
        "argument",
        "pretrain needs --data FILE, or --data stories for the embedded corpus",
      );
    await pretrain(options as never, { out, resume, json, threads } as never);
  });
