import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { writeAtomically } from "../base/files.js";
import { count } from "../base/numbers.js";
import { Embedder, type Pooling, poolings } from "../search/index.js";
import { writeNpy } from "../formats/index.js";
import { createRuntime } from "../runtime/index.js";
import { modelFor } from "./model.js";
import { countOption, examples, option, threadsOption, requiredOption } from "./options.js";
import { Reporter, print } from "./terminal.js";
import { type TextSource, readTexts } from "./texts.js";

interface EmbedCommand extends Omit<TextSource, "texts"> {
  readonly model: string;
  readonly out?: string;
  readonly pooling?: Pooling;
  readonly normalize: boolean;
  readonly maxLength?: number;
  readonly batch: number;
  readonly threads?: number;
  readonly json?: boolean;
}

async function embedTexts(given: string[], command: EmbedCommand): Promise<void> {
  const { model, out, pooling, normalize, maxLength, batch, threads, json = false } = command;
  const texts = await readTexts({ ...command, texts: given });
  if (texts.length === 0) throw new LineageError("data", "there is no text to embed");
  if (out !== undefined && !/\.(npy|jsonl)$/.test(out))
    throw new LineageError("argument", `--out must end in .npy or .jsonl, not ${JSON.stringify(out)}`);
  const report = await Reporter.create(json && out !== undefined);
  using embedder = await Embedder.load(await modelFor(model, "used for embedding"), {
    pooling,
    // Commander gives true where --no-normalize is absent: then the model's own modules say.
    normalize: normalize ? undefined : false,
    maxLength,
    runtime: createRuntime({ threads }),
  });
  let [cut, lost] = [0, 0];
  const started = performance.now();
  const vectors = await embedder.embed(texts, {
    batchSize: batch,
    onTruncated: (_, tokens) => {
      cut++;
      lost += tokens;
    },
    onProgress: (done) => {
      if (!json || out !== undefined)
        report.progress(`${count(done)} of ${count(texts.length)} texts`, { done, texts: texts.length });
    },
  });
  report.done();
  const seconds = (performance.now() - started) / 1000;
  const lines = () =>
    vectors.map((vector, place) => `${JSON.stringify({ text: texts[place], vector: [...vector] })}\n`);
  if (out === undefined) print(lines().join(""));
  else if (out.endsWith(".npy")) await writeNpy(out, vectors, embedder.size);
  else await writeAtomically(out, lines());
  if (cut > 0 && !(json && out === undefined)) {
    report.say(
      `${count(cut)} ${cut === 1 ? "text was" : "texts were"} cut to ${embedder.maxLength} tokens (${count(lost)} tokens left out)`,
      { truncatedTexts: cut, truncatedTokens: lost },
    );
  }
  if (out !== undefined)
    report.say(
      `${out}: ${count(texts.length)} vectors of ${embedder.size} numbers, in ${seconds.toFixed(1)} s`,
      {
        out,
        texts: texts.length,
        size: embedder.size,
        seconds,
      },
    );
}

export const embedCommand = new Command("embed")
  .description("turn texts into vectors; similar meanings get similar vectors")
  .argument("[texts...]", "texts (default: --data, else the lines of standard input)")
  .optionsGroup("Model:")
  .addOption(
    requiredOption(
      "model",
      "<place>",
      "an encoder: folder (such as one of sentence-transformers), or ORG/NAME on the hub",
    ),
  )
  .addOption(
    option("pooling", "<kind>", "how the states of the tokens become one vector", z.enum(poolings), {
      usual: "the model's own, else mean",
    }),
  )
  .option("--no-normalize", "do not scale vectors to length 1 (default: the model's own)")
  .addOption(
    countOption("maxLength", "most tokens of a text; longer texts are cut", undefined, {
      usual: "as many as the model reads",
    }),
  )
  .optionsGroup("Data:")
  .option(
    "--data <file>",
    "CSV, TSV, JSONL or Parquet, or a .txt with one text a line (default: standard input)",
  )
  .option("--text-column <name>", "column of the texts (default: text, sentence, …, or the longest)")
  .option("--skip-bad-rows", "leave out rows that cannot be read")
  .option("--encoding <name>", "text encoding of the file (default: UTF-8)")
  .optionsGroup("Run:")
  .option("--out <file>", "a .npy or .jsonl file (default: JSON lines on standard output)")
  .addOption(countOption("batch", "texts in a batch", 32))
  .addOption(threadsOption())
  .option("--json", "messages as JSON lines, for programs")
  .addHelpText(
    "after",
    examples(
      [
        'lineage embed --model all-MiniLM-L6-v2 "A cat sits." "There is a cat."',
        "two vectors, as JSON lines",
      ],
      [
        "lineage embed --model all-MiniLM-L6-v2 --data reviews.csv --out reviews.npy",
        "a column of a table, for NumPy",
      ],
      [
        "cat notes.txt | lineage embed --model all-MiniLM-L6-v2 --out notes.jsonl",
        "one vector for each line",
      ],
    ),
  )
  .action(embedTexts);
