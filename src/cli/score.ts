import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { readText } from "../base/files.js";
import { type BleuTokenizer, bleu, bleuTokenizers, chrf, rouge } from "../metrics/index.js";
import { examples, option } from "./options.js";
import { print } from "./terminal.js";

interface ScoreCommand {
  readonly tokenize: BleuTokenizer;
  readonly lowercase?: boolean;
  readonly json?: boolean;
}

/** The lines of a text; the line break at its end begins no line. */
async function linesOf(file: string): Promise<string[]> {
  const lines = (await readText(file)).split(/\r?\n/);
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

async function scoreFiles(file: string, referenceFiles: readonly string[], command: ScoreCommand) {
  const { tokenize, lowercase, json } = command;
  const texts = await linesOf(file);
  const references = await Promise.all(referenceFiles.map(linesOf));
  for (const [index, { length }] of references.entries())
    if (length !== texts.length)
      throw new LineageError(
        "data",
        `${file} has ${texts.length} lines, but ${referenceFiles[index]} has ${length}; both must have one line for each text`,
      );
  const words = bleu(texts, references, { tokenize, lowercase });
  const characters = chrf(texts, references, { lowercase });
  const withWords = chrf(texts, references, { lowercase, wordOrder: 2 });
  const summaries = references.length === 1 ? rouge(texts, references[0]!) : undefined;
  if (json) {
    const result = {
      bleu: words,
      chrf: characters,
      chrfPlusPlus: withWords,
      rouge: summaries,
      texts: texts.length,
    };
    print(`${JSON.stringify(result)}\n`);
    return;
  }
  const { score, precisions, brevityPenalty, hypothesisLength, referenceLength } = words;
  const lines = [
    `BLEU     ${score.toFixed(2)}   ${precisions.map((value) => value.toFixed(1)).join("/")}, brevity penalty ${brevityPenalty.toFixed(3)}, ${hypothesisLength} words for ${referenceLength}`,
    `         ${words.signature}`,
    `chrF2    ${characters.score.toFixed(2)}   ${characters.signature}`,
    `chrF2++  ${withWords.score.toFixed(2)}   ${withWords.signature}`,
    ...(summaries
      ? [
          `ROUGE-1  ${(100 * summaries.rouge1.f).toFixed(2)}   F1, without a stemmer`,
          `ROUGE-2  ${(100 * summaries.rouge2.f).toFixed(2)}`,
          `ROUGE-L  ${(100 * summaries.rougeL.f).toFixed(2)}`,
        ]
      : []),
  ];
  print(`${lines.join("\n")}\n`);
}

export const scoreCommand = new Command("score")
  .description("compute BLEU, chrF and ROUGE of texts against references")
  .argument("<file>", "texts, one a line")
  .argument("<reference...>", "reference texts, one a line; several files are several references")
  .addOption(
    option("tokenize", "<name>", "how BLEU cuts a text into words", z.enum(bleuTokenizers).default("13a")),
  )
  .option("--lowercase", "ignore case")
  .option("--json", "one JSON object")
  .addHelpText(
    "after",
    `
BLEU and chrF match sacreBLEU, and print its signatures. ROUGE matches rouge-score.
${examples(
  ["lineage score translated.de reference.de", "a translation against one reference"],
  ["lineage score translated.de reference.1 reference.2 --json", "two references, for a program"],
)}`,
  )
  .action(scoreFiles);
