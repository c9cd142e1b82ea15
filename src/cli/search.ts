import { Command } from "commander";
import { count } from "../base/numbers.js";
import { Embedder, SearchIndex } from "../search/index.js";
import { createRuntime } from "../runtime/index.js";
import { modelFor } from "./model.js";
import { countOption, examples, threadsOption, requiredOption } from "./options.js";
import { interruptible } from "./progress.js";
import { Reporter, print } from "./terminal.js";

interface SearchCommand {
  readonly model: string;
  readonly topK: number;
  readonly index?: string;
  readonly cache: boolean;
  readonly threads?: number;
  readonly json?: boolean;
}

async function searchFolder(folder: string, query: string, command: SearchCommand): Promise<void> {
  const { model, topK, index: file, cache, threads, json = false } = command;
  const report = await Reporter.create(false);
  using embedder = await Embedder.load(await modelFor(model, "used for embedding"), {
    runtime: createRuntime({ threads }),
  });
  const index = await interruptible((signal) =>
    SearchIndex.open(folder, embedder, {
      cache: cache ? file : null,
      signal,
      onProgress: (done, total) => {
        if (!json) report.progress(`${count(done)} of ${count(total)} passages`, {}, done / total);
      },
    }),
  );
  report.done();
  const { embedded, removed, files, passages, skipped } = index.report;
  const hits = await index.search(query, { topK });
  if (json) {
    print(`${JSON.stringify({ query, hits, index: index.report })}\n`);
    return;
  }
  report.say(
    `${count(files)} files, ${count(passages)} passages; ${count(embedded)} files new or changed, ${count(removed)} removed` +
      (skipped.length > 0 ? `, ${count(skipped.length)} skipped (not text)` : ""),
  );
  for (const { file: name, firstLine, lastLine, score, text } of hits) {
    const shown = text.length > 240 ? `${text.slice(0, 240).trimEnd()} …` : text;
    print(
      `\n${name}:${firstLine}${lastLine > firstLine ? `-${lastLine}` : ""}  ${score.toFixed(3)}\n` +
        `${shown.replace(/^/gm, "    ")}\n`,
    );
  }
}

export const searchCommand = new Command("search")
  .description("find passages of text files by meaning")
  .argument("<folder>", "folder of text files; hidden files are ignored")
  .argument("<query>", "what to look for, in your own words")
  .addOption(
    requiredOption(
      "model",
      "<place>",
      "an encoder for sentences, such as all-MiniLM-L6-v2: folder, or ORG/NAME on the hub",
    ),
  )
  .addOption(countOption("topK", "passages to show", 5))
  .option(
    "--index <file>",
    "file that caches the vectors (default: .lineage-search.safetensors in the folder)",
  )
  .option(
    "--no-cache",
    "do not cache vectors (default: they are cached, and only new and changed files are read)",
  )
  .addOption(threadsOption())
  .option("--json", "one JSON object")
  .addHelpText(
    "after",
    examples(
      [
        'lineage search notes "how do I renew my passport?" --model all-MiniLM-L6-v2',
        "the five nearest passages",
      ],
      ["lineage search src 'where are files written?' --model all-MiniLM-L6-v2 --top-k 3", "a code base"],
    ),
  )
  .action(searchFolder);
