import { Command } from "commander";
import picocolors from "picocolors";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { writeAtomically } from "../base/files.js";
import { count } from "../base/numbers.js";
import { escapeMarkup } from "../pictures/index.js";
import {
  type ShownConversations,
  type GrowControl,
  type ShownPiece,
  finetuneChatOptions,
  growInstructions,
  growOptions,
  resumeGrowing,
  showConversations,
} from "../tasks/index.js";
import { createRuntime } from "../runtime/index.js";
import { parseOptions } from "../training/index.js";
import { modelFor } from "./model.js";
import { countOption, examples, libraryOptions, option, requiredOption, threadsOption } from "./options.js";
import { interruptible } from "./progress.js";
import { print, tell } from "./terminal.js";

interface ShowCommand {
  readonly model: string;
  readonly rows: number;
  readonly row?: number;
  readonly json?: boolean;
  readonly html?: string;
  readonly [option: string]: unknown;
}

/** Colours of standard output, which other commands leave plain. */
const { NO_COLOR, FORCE_COLOR, TERM } = process.env;
const coloured =
  !NO_COLOR && (FORCE_COLOR ? FORCE_COLOR !== "0" : process.stdout.isTTY === true && TERM !== "dumb");
const paint = picocolors.createColors(coloured);

/** Trained text is green, what the model only reads is dim; special tokens are bold or yellow. Without colours trained text stands in brackets. */
function painted(pieces: readonly ShownPiece[]): string {
  if (!coloured) {
    let text = "";
    pieces.forEach((piece, index) => {
      if (piece.trained && !pieces[index - 1]?.trained) text += "⟦";
      text += piece.text;
      if (piece.trained && !pieces[index + 1]?.trained) text += "⟧";
    });
    return text;
  }
  return pieces
    .map(({ text, trained, special }) =>
      trained
        ? special
          ? paint.bold(paint.green(text))
          : paint.green(text)
        : special
          ? paint.yellow(text)
          : paint.dim(text),
    )
    .join("");
}

const legend = coloured
  ? `${paint.green("trained")}, ${paint.dim("only read")}, ${paint.bold(paint.green("trained"))} and ${paint.yellow("only read")} special tokens`
  : "⟦trained⟧, everything else is only read";

/** Width of the longest bar. */
const barWidth = 40;

function histogram({ lengths, maxLength }: ShownConversations): string {
  const most = Math.max(...lengths.map((bin) => bin.count));
  const label = ({ from, to }: { from: number; to: number }) => `${count(from)} to ${count(to - 1)}`;
  const width = Math.max(...lengths.map((bin) => label(bin).length));
  return lengths
    .map((bin) => {
      const bar = "█".repeat(Math.ceil((barWidth * bin.count) / most));
      const note = bin.to > maxLength && bin.from <= maxLength ? `  < --max-length ${count(maxLength)}` : "";
      return `  ${label(bin).padStart(width)}  ${bar} ${count(bin.count)}${note}`;
    })
    .join("\n");
}

const headOf = ({
  row,
  answer,
  tokens,
  trainedTokens,
  cutTokens,
}: ShownConversations["rows"][number]): string =>
  `row ${row}${answer === undefined ? "" : `, ${answer}`}: ${count(tokens)} tokens, ${count(trainedTokens)} trained` +
  (cutTokens > 0 ? `; ${count(cutTokens)} tokens beyond are cut off` : "");

async function show(file: string, { model, rows, row, json, html, ...options }: ShowCommand): Promise<void> {
  const found = await showConversations(file, { ...options, model: await modelFor(model) });
  const chosen = row === undefined ? found.rows.slice(0, rows) : found.rows.filter((one) => one.row === row);
  const { statement, summary, format, bad, lengths, counts } = found;
  if (html !== undefined) await writeAtomically(html, [page(found, chosen)]);
  if (json) {
    for (const one of chosen) print(`${JSON.stringify(one)}\n`);
    const { conversations, tokens, trainedTokens, long, dropped, split, cutTokens, cutTrainedTokens } =
      counts;
    print(
      `${JSON.stringify({ file, format, statement, conversations, tokens, trainedTokens, long, dropped, split, cutTokens, cutTrainedTokens, lengths, bad })}\n`,
    );
    return;
  }
  print(`${legend}\n\n`);
  for (const one of chosen) print(`${headOf(one)}\n${painted(one.pieces)}\n\n`);
  if (row !== undefined && chosen.length === 0) tell(`${file} has no row ${row} that is learned\n`);
  print(`${summary}; read as ${format}\n`);
  if (found.rows.some(({ answer }) => answer !== undefined))
    print(`lineage align looks at every answer; finetune --format ${format} learns the good ones alone\n`);
  if (statement !== undefined) print(`${statement}\n`);
  if (bad.length > 0)
    print(
      `${count(bad.length)} rows cannot be learned:\n${bad
        .slice(0, 10)
        .map(({ number, reason }) => `  row ${number} ${reason}`)
        .join("\n")}${bad.length > 10 ? `\n  and ${count(bad.length - 10)} more` : ""}\n`,
    );
  print(`\nconversations by tokens:\n${histogram(found)}\n`);
  if (html !== undefined) tell(`wrote ${html}\n`);
}

const page = (found: ShownConversations, rows: ShownConversations["rows"]): string => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>${escapeMarkup(found.file)}</title>
<style>
body { font: 14px/1.5 sans-serif; max-width: 60em; margin: 2em auto; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: 1em; background: #f6f6f6; color: #888; }
.trained { color: #075; background: #dfd; }
.special { font-weight: bold; color: #a60; }
.trained.special { color: #063; }
</style>
<h1>${escapeMarkup(found.file)}</h1>
<p>${escapeMarkup(found.summary)}. <span class="trained">Trained</span>, only read, <span class="special">special tokens</span>.</p>
${rows
  .map(
    (row) =>
      `<h2>${escapeMarkup(headOf(row))}</h2>\n<pre>${row.pieces
        .map(({ text, trained, special }) => {
          const names = [trained && "trained", special && "special"].filter(Boolean).join(" ");
          return names === "" ? escapeMarkup(text) : `<span class="${names}">${escapeMarkup(text)}</span>`;
        })
        .join("")}</pre>`,
  )
  .join("\n")}
<h2>Conversations by tokens</h2>
<pre>${escapeMarkup(histogram(found))}</pre>
</html>
`;

const of = libraryOptions(finetuneChatOptions.shape);

const showCommand = new Command("show")
  .description(
    "show each conversation as the model will see it: trained, masked and special tokens, lengths, what is cut",
  )
  .argument("<file>", "conversations, or answers that were judged: JSON, JSONL, CSV or Parquet")
  .addOption(
    requiredOption(
      "model",
      "<place>",
      "whose tokenizer and chat template: a folder, a .gguf file, or ORG/NAME",
    ),
  )
  .addOption(of("format", "<layout>", "how the conversations are written", { usual: "told by looking" }))
  .addOption(of("encoding", "<name>", "text encoding of the file", { usual: "UTF-8" }))
  .addOption(of("train", "<part>", "what is learned of a conversation"))
  .addOption(of("template", "<file>", "a chat template in Jinja", { usual: "the model's own" }))
  .addOption(
    of("maxLength", "<n>", "most tokens of a conversation", { usual: "the model's context, 1,024 at most" }),
  )
  .addOption(of("long", "<how>", "what becomes of a longer one"))
  .addOption(countOption("rows", "rows to show", 3))
  .addOption(countOption("row", "the row of this number alone", undefined, { usual: "the first ones" }))
  .addOption(option("html", "<file>", "write a page with the same", z.string(), { usual: "none" }))
  .option("--json", "one JSON object for each row, and one for all")
  .addHelpText(
    "after",
    examples(
      ["lineage data show chats.jsonl --model some.gguf", "the first rows, the counts and the lengths"],
      ["lineage data show chats.jsonl --model some.gguf --row 38 --long split", "one row"],
    ),
  )
  .action(show);

interface GrowCommand {
  readonly model?: string;
  readonly out: string;
  readonly resume?: boolean;
  readonly threads?: number;
  readonly [option: string]: unknown;
}

const grow = (
  seeds: string | undefined,
  { threads, model, out, resume, ...options }: GrowCommand,
): Promise<void> =>
  interruptible(async (signal) => {
    const control: GrowControl = {
      runtime: createRuntime({ threads }),
      signal,
      onTask: ({ instruction, output }, { counts: { kept } }) => {
        print(`${kept}. ${instruction}\n   ${output.replace(/\s+/g, " ").slice(0, 120)}\n`);
      },
    };
    if (!resume && (seeds === undefined || model === undefined))
      throw new LineageError(
        "argument",
        `data grow needs ${seeds === undefined ? "a file of seed tasks, such as seed_tasks.jsonl" : "--model, such as --model some.gguf"}`,
      );
    const { outcome, counts } = resume
      ? await resumeGrowing(out, control)
      : await growInstructions(
          { ...parseOptions(growOptions, { ...options, seeds, model: await modelFor(model!) }), out },
          control,
        );
    const { kept, similar, unfit, withoutInstance } = counts;
    tell(
      `${kept > 0 ? `wrote ${count(kept)} tasks to ${out}` : "no task was kept"}; left out: ${count(similar)} too like another, ${count(unfit)} unfit, ${count(withoutInstance)} without an instance\n`,
    );
    if (outcome === "interrupted")
      tell(`stopped and saved; continue with: lineage data grow --resume --out ${out}\n`);
  });

const ofGrowing = libraryOptions(growOptions.shape);

const growCommand = new Command("grow")
  .description(
    "let a model write new instructions from some that people wrote (self-instruct), and answer them",
  )
  .argument(
    "[seeds]",
    "tasks that people wrote: instruction, instances, is_classification, as self-instruct's 175",
  )
  .addOption(
    ofGrowing("model", "<place>", "a decoder: a folder, a .gguf file, or ORG/NAME on the hub", {
      required: true,
    }),
  )
  .addOption(ofGrowing("count", "<n>", "new tasks to write"))
  .addOption(ofGrowing("attempts", "<n>", "prompts at most", { usual: "ten for each task" }))
  .addOption(
    ofGrowing("similarity", "<x>", "an instruction is new where its ROUGE-L with every other is below this"),
  )
  .addOption(ofGrowing("temperature", "<x>", "lower is more predictable"))
  .addOption(ofGrowing("seed", "<n>", "the same seed writes the same tasks"))
  .addOption(option("out", "<file>", "rows in Alpaca's layout", z.string().default("grown.jsonl")))
  .option("--resume", "continue the run in --out, with its own options")
  .addOption(threadsOption())
  .addHelpText(
    "after",
    examples(
      [
        "lineage data grow seed_tasks.jsonl --model some.gguf --count 50 --out grown.jsonl",
        "then: lineage finetune --task chat --data grown.jsonl --model some.gguf",
      ],
      ["lineage data grow --resume --out grown.jsonl", "continue after Ctrl-C, to the same tasks"],
    ),
  )
  .action(grow);

export const dataCommand = new Command("data")
  .description("look at conversations as a model sees them, and grow lists of instructions")
  .addCommand(showCommand)
  .addCommand(growCommand)
  .addHelpText(
    "after",
    examples([
      "lineage data show chats.jsonl --model some.gguf",
      "what is trained, masked and cut, and all lengths",
    ]),
  );
