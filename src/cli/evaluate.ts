import path from "node:path";
import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { writeAtomically } from "../base/files.js";
import { count } from "../base/numbers.js";
import type { InferenceCheckpoint, InferenceEncoderDecoder } from "../checkpoints/index.js";
import {
  type OverlapResult,
  type Plan,
  type PlanOptions,
  type Score,
  ResultFile,
  type Task,
  type TaskResult,
  type TaskSummary,
  builtInTasks,
  findTask,
  identityOf,
  modelHash,
  planTask,
  readSummaries,
  resultOf,
  runPlan,
  scoreCurves,
  shortNames,
  textTask,
} from "../evaluation/index.js";
import { Decoder } from "../generation/index.js";
import { lossChart } from "../pictures/index.js";
import { kindOf } from "../library/index.js";
import type { SystemKind } from "../models/index.js";
import { countParameters, scaledContext } from "../nn/index.js";
import { type Device, createRuntime } from "../runtime/index.js";
import { type ChatMessage, ChatTemplate } from "../tokenizers/index.js";
import { type ModelCommand, addModelOptions, loadAnyToWrite } from "./inference.js";
import { modelFor } from "./model.js";
import { countOption, deviceOption, examples, option, threadsOption } from "./options.js";
import { interruptible } from "./progress.js";
import { Reporter, colors, print, tell } from "./terminal.js";

interface EvaluateCommand extends ModelCommand {
  readonly model: readonly string[];
  readonly tasks?: string;
  readonly text?: string;
  readonly data?: string;
  readonly shots: string;
  readonly seed: number;
  readonly limit?: number;
  readonly truncate?: boolean;
  readonly samples: number;
  readonly refine: number;
  readonly temperature?: number;
  readonly windowOverlap: number;
  readonly chat?: boolean;
  readonly oneTurn?: boolean;
  readonly exact?: boolean;
  readonly plot?: string;
  readonly metric?: string;
  readonly overlap?: readonly string[];
  readonly out?: string;
  readonly json?: boolean;
  readonly threads?: number;
  readonly device?: Device;
}

/** The numbers of `--shots`. */
function shotsOf(text: string): number[] {
  const numbers = text.split(",").map((part) => (/^\d{1,4}$/.test(part.trim()) ? Number(part) : NaN));
  if (numbers.some(Number.isNaN))
    throw new LineageError(
      "argument",
      `--shots must be whole numbers with commas between them, such as 0,1,5, not ${JSON.stringify(text)}`,
    );
  return [...new Set(numbers)];
}

async function tasksOf({ tasks, text, data }: EvaluateCommand): Promise<Task[]> {
  if ((tasks === undefined) === (text === undefined))
    throw new LineageError("argument", "give --tasks NAMES, or --text FILE for the perplexity of a text");
  if (text !== undefined) return [await textTask(text)];
  const names = tasks!.split(",").map((name) => name.trim());
  const found = await Promise.all(names.map((name) => findTask(name, { data })));
  const twice = found.find(({ name }, index) => found.findIndex((task) => task.name === name) !== index);
  if (twice) throw new LineageError("argument", `--tasks names ${twice.name} twice`);
  return found;
}

/** A model that is measured, before it is loaded. */
interface Measured {
  /** As it was typed. */
  readonly name: string;
  readonly place: string;
  readonly kind: SystemKind;
  /** Where its results go; undefined where nothing is written. */
  readonly out: string | undefined;
}

/** The models of `--model`. Of several each has a folder of its own in `--out`, with as much of its name as tells it from others. */
async function modelsOf({ model: names = [], out }: Partial<EvaluateCommand>): Promise<Measured[]> {
  // `evaluate show` needs no model, so the parser cannot ask for it.
  if (names.length === 0)
    throw new LineageError("argument", "--model is required: name the model to measure");
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw new LineageError("argument", `--model names ${twice} twice`);
  const folders = shortNames(names);
  const models: Measured[] = [];
  for (const [index, name] of names.entries()) {
    const place = await modelFor(name);
    const { kind, description } = await kindOf(place);
    if (kind === "encoder")
      throw new LineageError(
        "unsupported",
        `${name} is ${description}; evaluate measures decoders and encoder-decoders`,
      );
    const own = names.length > 1 && out !== undefined ? path.join(out, folders[index]!) : out;
    models.push({ name, place, kind, out: own });
  }
  return models;
}

/** Measures models on tasks, one after the other. */
async function evaluateModels(typed: Partial<EvaluateCommand>): Promise<void> {
  const { model = [], json = false, plot, metric } = typed;
  const command = { ...typed, model } as EvaluateCommand;
  // Everything that can be wrong with what was typed is looked at before a model is loaded.
  if (command.oneTurn && !command.chat)
    throw new LineageError("argument", "--one-turn says how a chat is written; give --chat as well");
  const tasks = await tasksOf(command);
  const shots = command.text === undefined ? shotsOf(command.shots) : [0];
  const models = await modelsOf(command);
  const summaries: TaskSummary[] = [];
  try {
    for (const one of models) summaries.push(...(await evaluateModel(one, tasks, shots, command)));
  } finally {
    // Models that were measured are told of, whatever happens to a later one.
    const shown = has(summaries, metric) ? metric : undefined;
    if (!json && summaries.length > 0)
      print(models.length === 1 ? table(summaries, shown) : summaryTable(summaries, shown));
  }
  if (metric !== undefined && !has(summaries, metric)) throw noMetric(summaries, metric);
  if (plot !== undefined) await writePlot(summaries, { plot, metric });
}

/** Whether some result has a score of that name. */
const has = (summaries: readonly TaskSummary[], metric: string | undefined): boolean =>
  metric !== undefined && summaries.some(({ scores }) => Object.hasOwn(scores, metric));

/** Loads a model, and measures it. */
async function evaluateModel(
  one: Measured,
  tasks: readonly Task[],
  shots: readonly number[],
  command: EvaluateCommand,
): Promise<TaskSummary[]> {
  const { threads, device } = command;
  const notes: string[] = [];
  const runtime = createRuntime({ threads, device });
  const loaded = await loadAnyToWrite(runtime, one.place, command, notes);
  try {
    return await measure(one, loaded, tasks, shots, command);
  } finally {
    await loaded.kept;
    loaded.weights.dispose();
    for (const note of notes) tell(`${colors.dim(note)}\n`);
  }
}

/** Asks a model the questions of tasks. */
async function measure(
  { name, place, out }: Measured,
  loaded: InferenceCheckpoint | InferenceEncoderDecoder,
  tasks: readonly Task[],
  shots: readonly number[],
  command: EvaluateCommand,
): Promise<TaskSummary[]> {
  const { json = false, quantize, exact } = command;
  const { config } = loaded.model;
  const begin = "decoderStartTokenId" in config ? [config.decoderStartTokenId] : undefined;
  const context = scaledContext(config);
  const template = command.chat ? new ChatTemplate(loaded.tokenizer) : undefined;
  const chat = template && ((messages: readonly ChatMessage[]) => template.render(messages));
  const plans: Plan[] = [];
  for (const task of tasks)
    for (const number of shots) {
      const options: PlanOptions = {
        ...command,
        overlap: command.windowOverlap,
        chat,
        begin,
        trainedOn: command.overlap,
        shots: number,
      };
      plans.push(await planTask(task, loaded.tokenizer, context, options));
    }
  const hash = out === undefined ? "" : await modelHash(place);
  const adapter =
    command.adapter === undefined || out === undefined ? undefined : await modelHash(command.adapter);
  const identity = { model: hash, quantize, adapter, exact };
  const parameters = countParameters(loaded.model);
  const files = new Map<Plan, ResultFile>();
  // Of a folder with results of another model nothing is written, so all files are looked at first.
  if (out !== undefined)
    for (const plan of plans)
      files.set(
        plan,
        await ResultFile.open(out, plan, identityOf(plan, identity), {
          model: name,
          ...(command.adapter !== undefined && { adapter: command.adapter }),
          parameters,
        }),
      );
  const results = await interruptible((signal) => ask(loaded, plans, files, { signal, json, exact }));
  if (json) print(`${JSON.stringify({ model: name, parameters, results })}\n`);
  for (const { task, shots: number, beyond, cut, overlap } of results) {
    if (overlap && !json) tell(overlapWords(`${task}, ${number}-shot`, overlap));
    const all = plans.find((plan) => plan.task.name === task && plan.options.shots === number)!.asked.length;
    const which = `${task}, ${number}-shot: ${count(beyond + cut)} of ${count(all)} prompts ${beyond + cut === 1 ? "was" : "were"} longer than the context of ${context} tokens`;
    if (beyond > 0) tell(`${which} and not asked; --truncate cuts their beginnings\n`);
    if (cut > 0) tell(`${which} and lost ${cut === 1 ? "its beginning" : "their beginnings"}\n`);
  }
  if (command.text !== undefined && results.some(({ scores }) => scores["loss"] && tokensOf(plans) < 100))
    tell(`${command.text} has only ${tokensOf(plans)} tokens: its perplexity says little\n`);
  return results.map((result) => ({ ...result, model: name, parameters, complete: true }));
}

/** What a training text has of a task's questions, and how much that changes. */
function overlapWords(
  name: string,
  { files, words, common, dirtyRows, cleanRows, dirty, clean }: OverlapResult,
): string {
  const [metric] = Object.keys({ ...clean, ...dirty });
  const of = (scores: OverlapResult["clean"]): string => {
    const found = metric === undefined ? undefined : scores[metric];
    return found ? `, ${metric} ${found.value.toFixed(4)}` : "";
  };
  const left = common > 0 ? ` (without ${count(common)} runs of words that more than 10 documents have)` : "";
  return `${name}: ${count(dirtyRows)} questions share ${words} words in a row with ${files.join(", ")}${left}${of(dirty)}; ${count(cleanRows)} do not${of(clean)}\n`;
}

interface ShowCommand {
  readonly plot?: string;
  readonly metric?: string;
  readonly by?: "shots" | "parameters";
  readonly json?: boolean;
}

/** Results of several runs beside each other. */
async function show(places: readonly string[], { plot, metric, by, json }: ShowCommand): Promise<void> {
  const summaries = await readSummaries(places);
  if (json) print(`${JSON.stringify(summaries)}\n`);
  else {
    print(summaryTable(summaries, metric));
    if (summaries.some(({ complete }) => !complete))
      tell("+: not all rows are answered yet; the same command with the same --out goes on\n");
  }
  if (plot !== undefined) await writePlot(summaries, { plot, metric, by });
}

/** The scores of a result, or the one that is asked for. */
const shownScores = ({ scores, rows }: TaskSummary, metric: string | undefined): [string, Score?][] =>
  rows === 0
    ? [["no row was asked"]]
    : Object.entries(scores).filter(([name]) => metric === undefined || name === metric);

const cellsOf = (score: Score | undefined): [string, string] => [
  score?.value.toFixed(4) ?? "",
  score?.stderr === undefined ? "" : `± ${score.stderr.toFixed(4)}`,
];

/** Results of several models as columns. */
function summaryTable(summaries: readonly TaskSummary[], metric: string | undefined): string {
  const rows = summaries.flatMap((summary) =>
    shownScores(summary, metric).map(([name, score]) => [
      path.basename(summary.model),
      summary.parameters === undefined ? "" : count(summary.parameters),
      summary.task,
      String(summary.shots),
      count(summary.rows) + (summary.complete ? "" : "+"),
      name,
      ...cellsOf(score),
    ]),
  );
  if (rows.length === 0) throw noMetric(summaries, metric);
  const head = ["model", "parameters", "task", "shots", "rows", "metric", "value", "stderr"];
  return columns([head, ...rows], [1, 3, 4, 6]);
}

const noMetric = (summaries: readonly TaskSummary[], metric: string | undefined): LineageError => {
  const names = [...new Set(summaries.flatMap(({ scores }) => Object.keys(scores)))];
  return new LineageError(
    "argument",
    `no result has the metric ${metric}; ${names.length === 0 ? "no row is answered yet" : `there are ${names.join(", ")}`}`,
  );
};

/** Writes scores as a picture. */
async function writePlot(
  summaries: readonly TaskSummary[],
  { plot, metric, by }: { plot: string; metric: string | undefined; by?: ShowCommand["by"] },
): Promise<void> {
  const sizes = new Set(summaries.map(({ parameters }) => parameters));
  const shots = new Set(summaries.map((each) => each.shots));
  const across = by ?? (shots.size > 1 || sizes.size < 2 ? "shots" : "parameters");
  const curves = scoreCurves(summaries, across, metric);
  if (curves.length === 0) throw noMetric(summaries, metric);
  await writeAtomically(
    plot,
    lossChart("evaluation", curves, {
      x: across === "shots" ? "examples" : "parameters",
      y: metric ?? "score, with standard error",
      ...(across === "parameters" && { log: "x" }),
    }),
  );
  tell(`${plot}: ${curves.length} ${curves.length === 1 ? "curve" : "curves"} over ${across}\n`);
}

const tokensOf = (plans: readonly Plan[]): number =>
  plans.reduce(
    (sum, { asked }) =>
      sum + asked.flatMap(({ targets }) => targets).reduce((part, { target }) => part + target.length, 0),
    0,
  );

/** Runs plans one after the other on one decoder. What was answered is kept, however the run ends. */
async function ask(
  model: InferenceCheckpoint | InferenceEncoderDecoder,
  plans: readonly Plan[],
  files: ReadonlyMap<Plan, ResultFile>,
  { signal, json, exact }: { signal: AbortSignal; json: boolean; exact: boolean | undefined },
): Promise<TaskResult[]> {
  const report = await Reporter.create(false);
  using decoder = await Decoder.create({
    ...model,
    capacity: Math.max(...plans.map(({ capacity }) => capacity)),
    branching: true,
    exactProducts: exact,
    // Sources are read together, and so are answers that are written.
    slots:
      "decoderStartTokenId" in model.model.config
        ? 8
        : plans.some(({ task }) => task.declaration.generate)
          ? 4
          : 1,
  });
  const results: TaskResult[] = [];
  for (const plan of plans) {
    const file = files.get(plan);
    let done = 0;
    const started = performance.now();
    try {
      const predictions = await runPlan({ ...model, decoder }, plan, {
        signal,
        known: file?.known,
        predicted: async (prediction) => {
          done++;
          const share = done / plan.asked.length;
          if (!json)
            report.progress(
              `${plan.task.name}, ${plan.options.shots}-shot: ${count(done)} of ${count(plan.asked.length)} rows, ${(done / ((performance.now() - started) / 1000)).toFixed(1)} rows/s`,
              {},
              share,
            );
          await file?.add(prediction);
        },
      });
      results.push(resultOf(plan, predictions));
    } finally {
      await file?.save();
    }
  }
  report.done();
  return results;
}

/** Results of one model as columns. */
function table(results: readonly TaskSummary[], metric: string | undefined): string {
  const rows = results.flatMap((result) =>
    shownScores(result, metric).map(([name, score], index) => [
      ...(index === 0 ? [result.task, String(result.shots), count(result.rows)] : ["", "", ""]),
      name,
      ...cellsOf(score),
    ]),
  );
  return columns([["task", "shots", "rows", "metric", "value", "stderr"], ...rows], [1, 2, 4]);
}

/** Rows as aligned columns. @param numeric which columns are aligned at their ends */
function columns(rows: readonly (readonly string[])[], numeric: readonly number[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) =>
        numeric.includes(column) ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!),
      )
      .join("  ")
      .trimEnd();
  return `${rows.map(line).join("\n")}\n`;
}

const plotOption = () =>
  option("plot", "<file>", "write an SVG picture with error bars", undefined, { usual: "none" });
const metricOption = () =>
  option("metric", "<name>", "show this score alone", undefined, {
    usual: "all; each task's first in the plot",
  });

const showCommand = new Command("show")
  .description("a table, and a plot, of results that evaluate wrote")
  .argument("<results...>", "folders that --out named, or single files in them")
  .addOption(plotOption())
  .addOption(metricOption())
  .addOption(
    option("by", "<what>", "what the plot counts across", z.enum(["shots", "parameters"]), {
      usual: "shots where there are several, else parameters",
    }),
  )
  .option("--json", "one JSON array, with everything but the predictions")
  .addHelpText(
    "after",
    examples(
      ["lineage evaluate show results/*", "several models beside each other"],
      ["lineage evaluate show results/* --metric acc --plot acc.svg", "and a picture of their accuracies"],
    ),
  )
  .action(show);

const command = new Command("evaluate")
  // Options after "show" are its own.
  .enablePositionalOptions()
  .description("measure a model on tasks (accuracy, exact match), or the perplexity of a text")
  .optionsGroup("What:")
  .addOption(
    option(
      "tasks",
      "<names>",
      "built-in tasks or .json files that declare one, with commas between",
      undefined,
      {
        usual: "none; --text serves instead",
      },
    ),
  )
  .addOption(option("text", "<file>", "a UTF-8 text, for its perplexity", undefined, { usual: "none" }))
  .addOption(
    option("data", "<folder>", "folder of the built-in tasks' files", undefined, {
      usual: "none; built-in tasks need it",
    }),
  )
  .addOption(
    option(
      "shots",
      "<numbers>",
      "examples before each question; several numbers are several runs",
      z.string().default("0"),
    ),
  )
  .option(
    "--chat",
    "write prompts and examples as turns of the model's chat template (default: as plain text)",
  )
  .option("--one-turn", "with --chat: examples and question in one turn of the user (default: a turn each)")
  .addOption(option("seed", "<n>", "draws the examples and the samples", z.int().nonnegative().default(0)))
  .addOption(countOption("limit", "ask only the first n questions of each task", undefined, { usual: "all" }))
  .option(
    "--truncate",
    "cut the beginning of prompts beyond the context (default: they are counted and not asked)",
  )
  .addOption(
    countOption(
      "samples",
      "answers to each question of a task that writes, of which the most frequent one counts (self-consistency)",
      1,
    ),
  )
  .addOption(
    option(
      "refine",
      "<n>",
      "answers that are sampled first and read again before the --samples that vote (ensemble refinement; Med-PaLM 2 takes 11, then 33)",
      z.int().nonnegative().default(0),
    ),
  )
  .addOption(
    option("temperature", "<x>", "of samples", z.number().nonnegative(), {
      usual: "0, and 0.7 for several samples",
    }),
  )
  .addOption(
    option(
      "overlap",
      "<file>",
      "a file that the model was trained on, text or table, also .gz: scores of questions with and without 13 words in a row from it; may be repeated",
      undefined,
      { usual: "none", again: true },
    ),
  )
  .addOption(countOption("windowOverlap", "tokens that each window of a long text reads before its own", 1))
  .optionsGroup("Model:")
  .addOption(
    option(
      "model",
      "<place>",
      "a decoder or an encoder-decoder: folder, .gguf file, or ORG/NAME on the hub; may be repeated",
      undefined,
      { required: true, again: true },
    ),
  );

export const evaluateCommand = addModelOptions(command)
  .option(
    "--exact",
    "multiply weights in few bits by float32 inputs; slower, most of all where the model writes (default: inputs are rounded to 8 bits)",
  )
  .optionsGroup("Run:")
  .addOption(
    option(
      "out",
      "<folder>",
      "write scores and every prediction, of several models in a folder each; a run with the same folder goes on",
      undefined,
      {
        usual: "nothing is written",
      },
    ),
  )
  .addOption(plotOption())
  .addOption(metricOption())
  .addOption(deviceOption())
  .addOption(threadsOption())
  .option("--json", "one JSON object for each model, with the scores")
  .addHelpText(
    "after",
    `
Built-in tasks, which read their files from --data:
  ${[...builtInTasks].map(([name, { data }]) => `${name} (${data})`).join("\n  ")}

A task of your own is a .json file beside its data. Templates are Jinja and see the columns of a row:
  {
    "data": "questions.jsonl",
    "prompt": "Question: {{ question }}\\nAnswer:",
    "choices": ["{{ a }}", "{{ b }}", "{{ c }}"],
    "target": "{{ right }}"
  }
Target is the text of a choice, or its place from 0. Instead of choices:
  "generate": { "stop": ["\\n"], "extract": "([0-9]+)" }   the model writes, and exact_match is measured
  "text": "{{ article }}"                                 perplexity
Of a written answer "flexible" is a second pattern, whose last match counts as flexible_match.
More: "revision", "instructions", "delimiter", "unconditional" (for acc_mutual_info),
"shots": { "data", "draw": "first" or "random", "separator", "target" },
"ask": { "data": "test_ids.json", "key": "{{ id }}" } (which rows are asked; the others are examples).

An encoder-decoder reads the prompt as its source. Prompts beyond the context are counted, and cut only with --truncate.

Scores have the names of EleutherAI's lm-evaluation-harness, and equal its numbers.
${examples(
  ["lineage evaluate --model runs/mine --text held-out.txt", "loss and perplexity of a text"],
  ["lineage evaluate --model chat.gguf --tasks sst2,logiqa --data DIR --shots 0,5 --limit 100", "accuracies"],
  [
    "lineage evaluate --model chat.gguf --tasks mine.json --out results",
    "your own task; predictions in results",
  ],
  [
    "lineage evaluate --model chat.gguf --tasks gsm8k --data DIR --shots 5 --samples 5 --chat",
    "majority of five answers",
  ],
  [
    "lineage evaluate --model chat.gguf --tasks gsm8k --data DIR --refine 4 --samples 8 --chat",
    "four answers, read again before each of eight that vote",
  ],
  [
    "lineage evaluate --model small.gguf --model large.gguf --tasks sst2 --data DIR --shots 0,1,5 --out results --plot scores.svg",
    "sizes and shots in one table and one picture",
  ],
  ["lineage evaluate show results --plot scores.svg", "runs beside each other"],
)}`,
  )
  .addCommand(showCommand)
  .action(evaluateModels);
