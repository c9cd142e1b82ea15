import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { writeAtomically } from "../base/files.js";
import { count } from "../base/numbers.js";
import { readTextFile } from "../data/index.js";
import {
  type TransformOptions,
  type Transformation,
  checkTransform,
  longSources,
} from "../generation/index.js";
import { type EncoderDecoderModel, load } from "../library/index.js";
import type { Device } from "../runtime/index.js";
import { adapterOption, mergeOption } from "./inference.js";
import { modelFor } from "./model.js";
import {
  countOption,
  deviceOption,
  examples,
  flagOf,
  option,
  preparedOption,
  preparedWeights,
  requiredOption,
  threadsOption,
} from "./options.js";
import { interruptible } from "./progress.js";
import { type QuantizedBits, quantizedBits, schemeOf } from "./quantize.js";
import { Reporter, colors, print, tell } from "./terminal.js";
import { readTexts, stdinLines } from "./texts.js";

interface TransformCommand extends Omit<TransformOptions, "onProgress" | "signal" | "earlyStopping"> {
  readonly model: string;
  readonly data?: string;
  readonly textColumn?: string;
  readonly skipBadRows?: boolean;
  readonly encoding?: string;
  readonly out?: string;
  readonly from?: string;
  readonly to?: string;
  readonly batch: number;
  readonly earlyStopping?: "true" | "false" | "never";
  readonly quantize?: QuantizedBits;
  readonly prepared?: boolean;
  readonly adapter?: string;
  readonly mergeAdapter?: boolean;
  readonly threads?: number;
  readonly device?: Device;
  readonly json?: boolean;
}

/** What the command line says of how to write. */
const optionsOf = (command: TransformCommand): TransformOptions => ({
  prefix: command.prefix,
  beams: command.beams,
  best: command.best,
  maxNewTokens: command.maxNewTokens,
  minNewTokens: command.minNewTokens,
  noRepeatNgram: command.noRepeatNgram,
  lengthPenalty: command.lengthPenalty,
  earlyStopping:
    command.earlyStopping === "never" ? "never" : command.earlyStopping && command.earlyStopping === "true",
  repetitionPenalty: command.repetitionPenalty,
  temperature: command.temperature,
  topK: command.topK,
  topP: command.topP,
  seed: command.seed,
  long: command.long,
});

/** What was transformed so far, for the words at the end. */
class Counts {
  private texts = 0;
  private cut = 0;
  private lost = 0;
  private split = 0;
  private unfinished = 0;
  private readonly started = performance.now();

  add({ cutTokens, parts, finish }: Transformation): void {
    this.texts++;
    if (cutTokens > 0) this.cut++;
    this.lost += cutTokens;
    if (parts > 1) this.split++;
    if (parts > 0 && finish === "length") this.unfinished++;
  }

  say(report: Reporter, out: string | undefined): void {
    const { texts, cut, lost, split, unfinished } = this;
    const were = (number: number) => `${count(number)} ${number === 1 ? "text was" : "texts were"}`;
    if (cut > 0)
      report.say(
        `${were(cut)} longer than the model reads: ${count(lost)} tokens were left out (--long split transforms such texts in parts)`,
        { cutTexts: cut, cutTokens: lost },
      );
    if (split > 0) report.say(`${were(split)} split between sentences`, { splitTexts: split });
    if (unfinished > 0)
      report.say(`${were(unfinished)} not finished within --max-new-tokens`, { unfinishedTexts: unfinished });
    if (out === undefined) return;
    const seconds = (performance.now() - this.started) / 1000;
    report.say(`${out}: ${count(texts)} texts, in ${seconds.toFixed(1)} s`, { out, texts, seconds });
  }
}

/** The lines that one text becomes. */
function linesOf(source: string, found: Transformation, { json, best = 1 }: TransformCommand): string {
  if (json) {
    const { texts, ...rest } = found;
    return `${JSON.stringify({ source, ...rest, ...(best > 1 && { texts }) })}\n`;
  }
  const line = (text: string): string => text.replace(/\s*\n\s*/g, " ");
  if (best === 1) return `${line(found.text)}\n`;
  return found.texts
    .map(
      ({ text, score }, rank) =>
        `${rank + 1}\t${score === undefined ? "" : score.toFixed(4)}\t${line(text)}\n`,
    )
    .join("");
}

const isTable = (file: string): boolean => /\.(csv|tsv|jsonl?|ndjson|parquet)(\.gz)?$/i.test(file);

async function textsOf(given: string[], command: TransformCommand): Promise<string[]> {
  const { data, encoding } = command;
  if (data === undefined || data === "-" || given.length > 0 || isTable(data))
    return readTexts({ ...command, texts: given });
  const lines = (await readTextFile(data, encoding)).split(/\r?\n/);
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

async function transformTexts(given: string[], command: TransformCommand): Promise<void> {
  const { data, out, json = false, batch } = command;
  const options = optionsOf(command);
  checkTransform(options, flagOf);
  const streams = given.length === 0 && (data === undefined || data === "-") && out === undefined;
  if (given.length === 0 && data === undefined && process.stdin.isTTY)
    throw new LineageError(
      "argument",
      "there is no text: give one, or --data FILE, or pipe lines into standard input",
    );
  const texts = streams ? [] : await textsOf(given, command);
  const place = await modelFor(command.model);
  const notes: string[] = [];
  using model = await load(place, {
    kind: "encoder-decoder",
    slots: batch,
    quantize: schemeOf(command.quantize),
    prepared: preparedWeights(command.prepared, notes),
    adapter: command.adapter,
    mergeAdapter: command.mergeAdapter,
    ...((command.from ?? command.to) !== undefined && {
      languages: { source: command.from, target: command.to },
    }),
    ...(command.threads !== undefined && { threads: command.threads }),
    ...(command.device !== undefined && { device: command.device }),
  });
  await interruptible(async (signal) => {
    if (streams) await transformStream(model, command, { ...options, signal });
    else if (texts.length === 1 && !json && out === undefined && writesAsItGoes(model, options))
      await writeOne(model, texts[0]!, { ...options, signal });
    else await transformAll(model, texts, command, { ...options, signal });
  });
  for (const note of notes) tell(`${colors.dim(note)}\n`);
}

/** Whether one text can be shown while it is written: a beam search knows its text at the end. */
const writesAsItGoes = (model: EncoderDecoderModel, { beams, best = 1, long }: TransformOptions): boolean =>
  (beams ?? model.beams) === 1 && best === 1 && long !== "split";

async function writeOne(model: EncoderDecoderModel, text: string, options: TransformOptions): Promise<void> {
  const pieces = model.stream(text, options);
  for (;;) {
    const next = await pieces.next();
    if (next.done) {
      print("\n");
      const { cutTokens } = next.value;
      if (cutTokens > 0)
        tell(
          `the text was longer than the model reads: ${count(cutTokens)} tokens were left out (--long split transforms such texts in parts)\n`,
        );
      return;
    }
    print(next.value);
  }
}

/** Lines that come, each answered as soon as it can be; those that wait are transformed together. */
async function transformStream(
  model: EncoderDecoderModel,
  command: TransformCommand,
  options: TransformOptions,
): Promise<void> {
  const sources: string[] = [];
  const remembered = async function* () {
    for await (const line of stdinLines()) {
      sources.push(line);
      yield line;
    }
  };
  const counts = new Counts();
  for await (const found of model.transformEach(remembered(), options)) {
    counts.add(found);
    print(linesOf(sources.shift()!, found, command));
  }
  if (!command.json) counts.say(await Reporter.create(false), undefined);
}

async function transformAll(
  model: EncoderDecoderModel,
  texts: readonly string[],
  command: TransformCommand,
  options: TransformOptions,
): Promise<void> {
  const { out, json = false } = command;
  // Standard output holds either answers or reports.
  const report = await Reporter.create(json && out !== undefined);
  const onProgress = (done: number, total: number): void => {
    if (total > 1 && (!json || out !== undefined))
      report.progress(`${count(done)} of ${count(total)} texts`, { done, texts: total }, done / total);
  };
  const counts = new Counts();
  const found = await model.transform(texts, { ...options, onProgress });
  report.done();
  const asJson = out === undefined ? json : /\.jsonl$/i.test(out);
  const lines = found.map((each, index) => linesOf(texts[index]!, each, { ...command, json: asJson }));
  for (const each of found) counts.add(each);
  if (out === undefined) print(lines.join(""));
  else await writeAtomically(out, lines);
  if (!(json && out === undefined)) counts.say(report, out);
}

export const transformCommand = new Command("transform")
  .description("turn texts into texts with an encoder-decoder: translate, summarise, answer")
  .argument("[texts...]", "texts (default: --data, else the lines of standard input)")
  .optionsGroup("Model:")
  .addOption(
    requiredOption(
      "model",
      "<place>",
      "an encoder-decoder (T5, BART, Marian, …): folder, a T5's .gguf file, or ORG/NAME on the hub",
    ),
  )
  .addOption(
    option("from", "<code>", "language of the texts, for an mBART: de_DE", undefined, {
      usual: "the model's own",
    }),
  )
  .addOption(
    option("to", "<code>", "language to write, for an mBART: en_XX", undefined, { usual: "the model's own" }),
  )
  .addOption(
    option(
      "prefix",
      "<text>",
      "what stands before every text, such as 'translate English to German: '",
      z.string(),
      {
        usual: "nothing",
      },
    ),
  )
  .addOption(
    option("quantize", "<bits>", "keep matrices in fewer bits", quantizedBits, {
      usual: "as they are",
    }),
  )
  .addOption(adapterOption("a LoRA adapter for this model, in peft's layout"))
  .addOption(mergeOption())
  .addOption(preparedOption())
  .optionsGroup("Data:")
  .option(
    "--data <file>",
    "CSV, TSV, JSONL or Parquet, or a file with one text a line (default: standard input)",
  )
  .option("--text-column <name>", "column of the texts (default: text, sentence, …, or the longest)")
  .option("--skip-bad-rows", "leave out rows that cannot be read")
  .option("--encoding <name>", "text encoding of the file (default: UTF-8)")
  .addOption(
    option(
      "long",
      "<what>",
      "what becomes of texts that are longer than the model reads",
      z.enum(longSources),
      {
        usual: "cut",
      },
    ),
  )
  .optionsGroup("Text:")
  .addOption(
    countOption("beams", "texts that a beam search follows", undefined, { usual: "the model's own, else 1" }),
  )
  .addOption(
    countOption("best", "texts for each source: the best beams, or samples", undefined, { usual: "1" }),
  )
  .addOption(
    option(
      "lengthPenalty",
      "<x>",
      "above 1 favours long texts in a beam search, below 1 short ones",
      z.number(),
      {
        usual: "the model's own, else 1",
      },
    ),
  )
  .addOption(
    option(
      "earlyStopping",
      "<when>",
      "end a beam search once it has as many texts as beams; never: as late as a better one can come",
      z.enum(["true", "false", "never"]),
      { usual: "the model's own, else false" },
    ),
  )
  .addOption(
    option("maxNewTokens", "<n>", "tokens to write at most", z.int().nonnegative(), {
      usual: "the model's own, else 200",
    }),
  )
  .addOption(
    option("minNewTokens", "<n>", "tokens before which a text does not end", z.int().nonnegative(), {
      usual: "the model's own, else 0",
    }),
  )
  .addOption(
    countOption("noRepeatNgram", "no sequence of n tokens comes twice", undefined, {
      usual: "the model's own, else they may",
    }),
  )
  .addOption(
    option("repetitionPenalty", "<x>", "above 1 avoids tokens written before", z.number().positive(), {
      usual: "1",
    }),
  )
  .optionsGroup("Sampling:")
  .addOption(
    option(
      "temperature",
      "<x>",
      "draw texts; small values stay near the likeliest",
      z.number().nonnegative(),
      {
        usual: "nothing is drawn",
      },
    ),
  )
  .addOption(countOption("topK", "draw from the n most probable tokens", undefined, { usual: "all" }))
  .addOption(
    option(
      "topP",
      "<p>",
      "draw from the most probable tokens up to this probability",
      z.number().positive().max(1),
      {
        usual: "1",
      },
    ),
  )
  .addOption(
    option("seed", "<n>", "the same seed draws the same texts", z.int().nonnegative(), { usual: "0" }),
  )
  .optionsGroup("Run:")
  .option("--out <file>", "a file with one text a line, or .jsonl (default: standard output)")
  .addOption(countOption("batch", "rows that are written side by side, each beam counted", 64))
  .addOption(deviceOption())
  .addOption(threadsOption())
  .option("--json", "one JSON object for each text, with scores and counts")
  .addHelpText(
    "after",
    examples(
      ['lineage transform --model runs/de-en "Ein Hund rennt."', "a translation, as it is written"],
      ["lineage transform --model runs/de-en --data test.de --beams 4 --out test.en", "a file, line by line"],
      [
        'lineage transform --model t5-small --prefix "summarize: " --data articles.csv --min-new-tokens 30 --no-repeat-ngram 3 --json',
        "summaries of a column, with scores and counts",
      ],
      ["tail -f log.de | lineage transform --model runs/de-en", "a stream, line by line"],
      ['lineage transform --model runs/de-en --best 3 --temperature 0.8 "Guten Tag."', "three samples"],
    ),
  )
  .action(transformTexts);
