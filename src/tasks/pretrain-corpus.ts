import path from "node:path";
import { LineageError } from "../base/errors.js";
import { readText } from "../base/files.js";
import { documentsOf, splitDocuments, stories } from "../data/index.js";
import type { LanguageCorpus, ParallelCorpus, PretrainingCorpus } from "../objectives/index.js";

/** Where the texts of pretraining come from. */
export interface CorpusFiles {
  /** Text files, each `file` or `language=file`; or `stories` for the embedded corpus. */
  readonly data: readonly string[];
  /** Pairs of files with one sentence a line: `en=train.en,de=train.de`. */
  readonly parallel: readonly string[];
  /** Share of the documents that is held out. */
  readonly validation: number;
  readonly seed: number;
}

/** Stories of the embedded corpus: enough that a run of minutes sees each about once. */
const embeddedStories = 6000;

/** Texts by language, and translations, each cut into what is learned from and what is held out. */
export async function readCorpus({
  data,
  parallel: pairedFiles,
  validation,
  seed,
}: CorpusFiles): Promise<{ readonly training: PretrainingCorpus; readonly heldOut: PretrainingCorpus }> {
  const named = data.map((entry) => {
    const [, language, file] = /^(\w+)=(.+)$/.exec(entry) ?? [undefined, undefined, entry];
    return { language, file };
  });
  const languageless = named.find(({ language }) => language === undefined);
  if (languageless && named.some(({ language }) => language !== undefined))
    throw new LineageError(
      "argument",
      `--data ${languageless.file} names no language, but other files do; write --data LANGUAGE=${languageless.file}`,
    );
  const training: LanguageCorpus[] = [];
  const heldOut: LanguageCorpus[] = [];
  for (const name of new Set(named.map(({ language = "" }) => language))) {
    const files = named.filter(({ language = "" }) => language === name).map(({ file }) => file);
    const documents = (await Promise.all(files.map((file) => readDocuments(file, seed)))).flat();
    const parts = splitDocuments(documents, validation, files.join(", "));
    training.push({ name, documents: parts.training });
    heldOut.push({ name, documents: parts.heldOut });
  }
  const parallel = await Promise.all(
    pairedFiles.map((entry) =>
      readParallel(
        entry,
        training.map(({ name }) => name),
      ),
    ),
  );
  const cut = (pick: "training" | "heldOut"): ParallelCorpus[] =>
    parallel.map(({ languages, pairs }) => ({
      languages,
      pairs: splitDocuments(pairs, validation, pairedFiles.join(", "))[pick],
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

/** All texts of a corpus, for its tokenizer to learn from. */
export function* textsOf({ languages, parallel = [] }: PretrainingCorpus): Generator<string> {
  for (const { documents } of languages) for (const document of documents) yield document.join(" ");
  for (const { pairs } of parallel) for (const pair of pairs) yield* pair;
}

export const countDocuments = ({ languages }: PretrainingCorpus): number =>
  languages.reduce((sum, { documents }) => sum + documents.length, 0);
