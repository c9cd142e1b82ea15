import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { writeAtomically } from "../base/files.js";
import { count } from "../base/numbers.js";
import { type Example, examplesOf, isHeaderOf, readTable, taskNames } from "../data/index.js";
import { type Prediction, Predictor, type PredictorInput } from "../tasks/index.js";
import { createRuntime } from "../runtime/index.js";
import { adapterOption, mergeOption } from "./inference.js";
import { modelFor } from "./model.js";
import { type QuantizedBits, quantizedBits, schemeOf } from "./quantize.js";
import { countOption, examples, option, threadsOption, requiredOption } from "./options.js";
import { Reporter, print } from "./terminal.js";
import { readTexts, stdinLines } from "./texts.js";

interface PredictCommand {
  readonly model: string;
  readonly data?: string;
  readonly textColumn?: string;
  readonly pairColumn?: string;
  readonly labelColumn?: string;
  readonly skipBadRows?: boolean;
  readonly encoding?: string;
  readonly out?: string;
  readonly threshold?: number;
  readonly probabilities?: boolean;
  readonly batch: number;
  readonly maxLength?: number;
  readonly adapter?: string;
  readonly mergeAdapter?: boolean;
  readonly quantize?: QuantizedBits;
  readonly threads?: number;
  readonly json?: boolean;
}

/** A prediction for a person: the answer, how sure it is, and what of. */
function sentence(text: string, prediction: Prediction, all: boolean): string {
  const { label, probability, probabilities, value, tags, answer } = prediction;
  if (tags)
    return text
      .split(/\s+/)
      .map((word, place) => `${word}/${tags[place] ?? "?"}`)
      .join(" ");
  const sure = probability === undefined ? "" : `\t${probability.toFixed(4)}`;
  const rest =
    all && probabilities
      ? `\t${Object.entries(probabilities)
          .map(([name, share]) => `${name}=${share.toFixed(4)}`)
          .join(" ")}`
      : "";
  const said =
    answer !== undefined
      ? answer === ""
        ? "(no answer)"
        : answer
      : value !== undefined
        ? String(value)
        : (label ?? "(open)");
  return `${said}${sure}${rest}\t${text}`;
}

/** What of a prediction a program is given: all probabilities only where they are asked for. */
const record = (input: object, { probabilities, ...rest }: Prediction, all: boolean) => ({
  ...input,
  ...rest,
  ...(all && probabilities && { probabilities }),
});

async function predict(given: string[], command: PredictCommand): Promise<void> {
  const { model, data, out, threshold, batch, probabilities = false, json = false } = command;
  if (out !== undefined && !out.endsWith(".jsonl"))
    throw new LineageError("argument", `--out must end in .jsonl, not ${JSON.stringify(out)}`);
  using predictor = await Predictor.load(await modelFor(model, "used for predicting"), {
    maxLength: command.maxLength,
    adapter: command.adapter,
    mergeAdapter: command.mergeAdapter,
    quantize: schemeOf(command.quantize),
    runtime: createRuntime({ threads: command.threads }),
  });
  const options = { threshold, batchSize: batch };
  const line = (input: object, text: string, prediction: Prediction) =>
    json || out !== undefined
      ? `${JSON.stringify(record(input, prediction, probabilities))}\n`
      : `${sentence(text, prediction, probabilities)}\n`;

  const isTable = data !== undefined && data !== "-" && !/\.(txt|md|text)$/i.test(data);
  if (given.length === 0 && !isTable && (data === undefined || data === "-") && out === undefined) {
    // A stream is answered line by line, as it comes.
    if (data === undefined && process.stdin.isTTY)
      throw new LineageError(
        "argument",
        "there is no text: give one, or --data FILE, or pipe lines into standard input",
      );
    for await (const text of stdinLines()) {
      const [prediction] = await predictor.predict([inputOf(predictor, text)], options);
      print(line({ text }, text, prediction));
    }
    return;
  }
  // Standard output holds either predictions or reports.
  const report = await Reporter.create(json && out !== undefined);
  const onProgress = (done: number, total: number) => {
    if (!json && total > batch) report.progress(`${count(done)} of ${count(total)}`, {});
  };
  const rows = isTable ? await tableRows(predictor, command) : undefined;
  const inputs: PredictorInput[] = rows
    ? [...rows.examples]
    : (await readTexts({ ...command, texts: given })).map((text) => inputOf(predictor, text));
  let predictions: readonly Prediction[];
  if (rows?.labelled) {
    const measured = await predictor.evaluate(rows.examples, { ...options, file: data, onProgress });
    predictions = measured.predictions;
    const figures = Object.entries(measured.metrics).map(([name, value]) => `${name} ${value.toFixed(4)}`);
    report.say(`${count(inputs.length)} labelled rows: ${figures.join(", ")}`, { metrics: measured.metrics });
    if (measured.confusion && !json) report.say(measured.confusion.toString());
  } else predictions = await predictor.predict(inputs, { ...options, onProgress });
  report.done();
  const lines = predictions.map((prediction, place) => {
    const input = inputs[place]!;
    const example = typeof input === "string" ? { text: input } : (input as Example);
    const { text, pair, row, words } = example as Example;
    const known = {
      ...(rows && { row }),
      text,
      ...(pair !== undefined && { pair }),
      ...(words && { words }),
    };
    return line(known, pair === undefined ? text : `${text}\t${pair}`, prediction);
  });
  const cut = rows?.examples.filter((example) => predictor.truncatedTokens(example) > 0).length ?? 0;
  if (cut > 0)
    report.say(
      `${count(cut)} ${cut === 1 ? "text was" : "texts were"} longer than the model reads and ${cut === 1 ? "was" : "were"} cut`,
      {
        truncatedTexts: cut,
      },
    );
  if (out === undefined) print(lines.join(""));
  else {
    await writeAtomically(out, lines);
    report.say(`${out}: ${count(lines.length)} predictions`, { out, predictions: lines.length });
  }
}

/** A line as the task takes it: two texts are separated by a tab, and a question comes before its context. */
function inputOf(predictor: Predictor, line: string): PredictorInput {
  if (predictor.task === "choice") {
    const [text = "", ...choices] = line.split("\t");
    if (choices.length < 2)
      throw new LineageError(
        "argument",
        "for the task choice, a line is a text and at least two choices, separated by tabs",
      );
    return { text, choices };
  }
  const tab = line.indexOf("\t");
  if (predictor.readsPairs || predictor.task === "span") {
    if (tab < 0)
      throw new LineageError(
        "argument",
        `for the task ${predictor.task}, a line is ${predictor.task === "span" ? "a question and its context" : "two texts"}, separated by a tab`,
      );
    return { text: line.slice(0, tab), pair: line.slice(tab + 1) };
  }
  return line;
}

async function tableRows(
  { task, readsPairs: pairs }: Predictor,
  { data, textColumn, pairColumn, labelColumn, encoding, skipBadRows }: PredictCommand,
): Promise<{ examples: readonly Example[]; labelled: boolean }> {
  const columns = { text: textColumn, pair: pairColumn, label: labelColumn };
  const table = await readTable(data!, { header: isHeaderOf(columns), encoding, skipBadRows });
  const { examples: rows } = examplesOf(task, table, columns, { skipBadRows, pairs });
  return { examples: rows, labelled: rows.every(({ label }) => label !== undefined) };
}

export const predictCommand = new Command("predict")
  .description("predict with a fine-tuned encoder or decoder: texts, a file or a stream")
  .argument("[texts...]", "texts (default: --data, else the lines of standard input)")
  .optionsGroup("Model:")
  .addOption(
    requiredOption(
      "model",
      "<place>",
      `a folder that finetune wrote (tasks: ${taskNames.join(", ")}), or the base of an adapter`,
    ),
  )
  .addOption(adapterOption("a LoRA adapter for this model, in peft's layout; it may bring the head"))
  .addOption(mergeOption())
  .addOption(
    option("quantize", "<bits>", "keep matrices in fewer bits, but the head's", quantizedBits, {
      usual: "as they are",
    }),
  )
  .addOption(
    option(
      "threshold",
      "<p>",
      "least probability to predict the second of two classes; with more classes, to predict any",
      z.number().min(0).max(1),
      { usual: "as fine-tuned" },
    ),
  )
  .addOption(
    countOption("maxLength", "most tokens of a text; longer texts are cut", undefined, {
      usual: "as fine-tuned",
    }),
  )
  .optionsGroup("Data:")
  .option(
    "--data <file>",
    "CSV, TSV, JSONL or Parquet, or a .txt with one text a line; labelled rows are scored too (default: standard input)",
  )
  .option(
    "--text-column <name>",
    "column of the texts (default: text, sentence, question, …, or the longest)",
  )
  .option("--pair-column <name>", "column of the second texts (default: found by its name)")
  .option("--label-column <name>", "column of the labels (default: label, class, score, tags, answers, …)")
  .option("--skip-bad-rows", "leave out rows that cannot be read")
  .option("--encoding <name>", "text encoding of the file (default: UTF-8)")
  .optionsGroup("Run:")
  .option("--out <file>", "a .jsonl file (default: standard output)")
  .option("--probabilities", "show the probability of every class")
  .addOption(countOption("batch", "rows in a batch", 32))
  .addOption(threadsOption())
  .option("--json", "JSON lines")
  .addHelpText(
    "after",
    examples(
      ['lineage predict --model runs/sentiment "a lovely film"', "the class and its probability"],
      [
        'lineage predict --model all-MiniLM-L6-v2 --adapter runs/sentiment "a lovely film"',
        "with an adapter that finetune --adapter lora wrote beside this model",
      ],
      ["lineage predict --model runs/sentiment --data new.csv --out answers.jsonl", "a table"],
      ["tail -f log.txt | lineage predict --model runs/sentiment --json", "a stream, line by line"],
    ),
  )
  .action(predict);
