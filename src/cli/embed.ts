import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { writeAtomically } from "../base/files.js";
import { Embedder, type Pooling, poolings } from "../search/index.js";
import { writeNpy } from "../formats/index.js";
import { createRuntime } from "../runtime/index.js";
import { modelFor } from "./model.js";
import { countOption, examples, option, threadsOption } from "./options.js";
import { Reporter, count, print } from "./terminal.js";
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
    throw new LineageError("argument", `${out}: vectors are written to .npy or .jsonl files`);
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
      `${count(cut)} of the texts ${cut === 1 ? "was" : "were"} cut to ${embedder.maxLength} tokens; ${count(lost)} tokens were left out`,
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
  .description("vectors of texts that lie close where meanings do")
  .argument("[texts...]", "texts; without any, --data or the lines of standard input")
  .requiredOption(
    "--model <place>",
    "an encoder: its folder, such as one of sentence-transformers, or a hub's ORG/NAME",
  )
  .option("--data <file>", "CSV, TSV, JSONL or Parquet, or a .txt of which every line is a text")
  .option("--text-column <name>", "the column of the texts")
  .option("--skip-bad-rows", "leave rows that cannot be read out")
  .option("--encoding <name>", "of the file, where it is not UTF-8")
  .option("--out <file>", "vectors.npy or vectors.jsonl; default: JSON lines to standard output")
  .addOption(
    option("pooling", "<kind>", "how a text's vector comes about", z.enum(poolings), {
      usual: "as the model's modules say, else mean",
    }),
  )
  .option("--no-normalize", "keep the vectors' lengths")
  .addOption(
    countOption("maxLength", "tokens that are read of a text", undefined, {
      usual: "as many as the model reads",
    }),
  )
  .addOption(countOption("batch", "texts that run together", 32))
  .addOption(threadsOption())
  .option("--json", "reports as JSON lines")
  .addHelpText(
    "after",
    examples(
      ['lineage embed --model all-MiniLM-L6-v2 "A cat sits." "There is a cat."', "two vectors as JSON lines"],
      ["lineage embed --model all-MiniLM-L6-v2 --data reviews.csv --out reviews.npy", "a column, for NumPy"],
      ["cat notes.txt | lineage embed --model all-MiniLM-L6-v2 --out notes.jsonl", "every line of a stream"],
    ),
  )
  .action(embedTexts);
