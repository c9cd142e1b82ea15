import { existsSync } from "node:fs";
import { readFile, readdir, stat } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { FormatError, LineageError } from "../base/errors.js";
import { storageError } from "../base/files.js";
import { cosineSimilarity } from "../base/numbers.js";
import { SafetensorsFile, writeSafetensors } from "../formats/index.js";
import type { Embedder } from "./embedder.js";

/** A stretch of a file, lines counted from 1. */
export interface Passage {
  /** Relative to the folder, with `/` between its parts. */
  readonly file: string;
  readonly firstLine: number;
  readonly lastLine: number;
}

export interface Hit extends Passage {
  /** Cosine of the angle between the query and the passage. */
  readonly score: number;
  readonly text: string;
}

/** What changed since an index was made. */
export interface IndexReport {
  readonly files: number;
  readonly passages: number;
  /** Files that were read and embedded now: new ones and changed ones. */
  readonly embedded: number;
  readonly removed: number;
  /** Files that are no text, or too large to be one. */
  readonly skipped: readonly string[];
}

export interface SearchOptions {
  /** Where the vectors are kept. Default: `.lineage-search.safetensors` in the folder. `null` keeps none. */
  readonly cache?: string | null;
  /** Called with passages done and passages to do. */
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

const fileState = z.object({
  size: z.number(),
  modified: z.number(),
  passages: z.array(z.tuple([z.int(), z.int()])),
});
const cacheState = z.object({
  version: z.literal(1),
  model: z.string(),
  files: z.record(z.string(), fileState),
});
type FileState = z.infer<typeof fileState>;

const largestFile = 5_000_000;
const defaultCache = ".lineage-search.safetensors";

/**
 * Finds the passages of a folder's text files that are nearest in meaning to a query:
 *
 *     const embedder = await Embedder.load("all-MiniLM-L6-v2");
 *     const index = await SearchIndex.open("notes", embedder);
 *     for (const { file, firstLine, text } of await index.search("how do I renew my passport?")) console.log(file, firstLine, text);
 *
 * Vectors are kept in one file; of a folder that changed, only files of another size or date are embedded again.
 */
export class SearchIndex {
  private constructor(
    readonly folder: string,
    private readonly embedder: Embedder,
    private readonly passages: readonly Passage[],
    private readonly vectors: readonly Float32Array[],
    readonly report: IndexReport,
  ) {}

  /** Throws `data` for a folder without text, `storage` where it cannot be read or the vectors cannot be kept. */
  static async open(folder: string, embedder: Embedder, options: SearchOptions = {}): Promise<SearchIndex> {
    const cache = options.cache === undefined ? path.join(folder, defaultCache) : options.cache;
    const found = await filesOf(folder);
    const known = cache === null ? new Map<string, KnownFile>() : await readCache(cache, embedder);
    const skipped: string[] = [];
    const fresh: { file: string; passages: Passage[]; texts: string[] }[] = [];
    const states = new Map<string, FileState>();
    const vectorsOf = new Map<string, readonly Float32Array[]>();
    for (const { file, size, modified } of found) {
      const before = known.get(file);
      if (before?.state.size === size && before.state.modified === modified) {
        states.set(file, before.state);
        vectorsOf.set(file, before.vectors);
        continue;
      }
      const text = size > largestFile ? undefined : await readIfText(path.join(folder, file));
      if (text === undefined) {
        skipped.push(file);
        continue;
      }
      const passages = passagesOf(file, text, embedder);
      states.set(file, {
        size,
        modified,
        passages: passages.map(({ firstLine, lastLine }) => [firstLine, lastLine]),
      });
      fresh.push({ file, passages, texts: passages.map((passage) => linesOf(text, passage)) });
    }
    if (states.size === 0) throw new LineageError("data", `${folder} has no text files`);
    const texts = fresh.flatMap((file) => file.texts);
    const vectors = await embedder.embed(texts, {
      use: "document",
      signal: options.signal,
      onProgress: (done) => options.onProgress?.(done, texts.length),
    });
    let place = 0;
    for (const { file, passages } of fresh)
      vectorsOf.set(file, vectors.slice(place, (place += passages.length)));
    const removed = [...known.keys()].filter((file) => !states.has(file)).length;
    if (cache !== null && (fresh.length > 0 || removed > 0))
      await writeCache(cache, embedder, states, vectorsOf);
    const all = [...states].flatMap(([file, state]) =>
      state.passages.map(([firstLine, lastLine]) => ({ file, firstLine, lastLine })),
    );
    return new SearchIndex(
      folder,
      embedder,
      all,
      [...states.keys()].flatMap((file) => vectorsOf.get(file)!),
      { files: states.size, passages: all.length, embedded: fresh.length, removed, skipped },
    );
  }

  /** The `topK` nearest passages, the nearest first. Throws `argument` for an empty query. */
  async search(query: string, { topK = 5 }: { topK?: number } = {}): Promise<Hit[]> {
    if (query.trim() === "") throw new LineageError("argument", "the query is empty; say what to look for");
    const [wanted] = await this.embedder.embed([query], { use: "query" });
    const scored = this.vectors.map((vector, place) => ({ place, score: cosineSimilarity(wanted!, vector) }));
    scored.sort((a, b) => b.score - a.score || a.place - b.place);
    return Promise.all(
      scored.slice(0, topK).map(async ({ place, score }): Promise<Hit> => {
        const passage = this.passages[place]!;
        const text = (await readIfText(path.join(this.folder, passage.file))) ?? "";
        return { ...passage, score, text: linesOf(text, passage) };
      }),
    );
  }
}

interface FoundFile {
  readonly file: string;
  readonly size: number;
  readonly modified: number;
}

/** Every file of a folder that is not hidden and no installed package's, in the order of their names. */
async function filesOf(folder: string): Promise<FoundFile[]> {
  const files: FoundFile[] = [];
  const visit = async (place: string): Promise<void> => {
    const entries = await readdir(path.join(folder, place), { withFileTypes: true }).catch(
      (error: unknown) => {
        throw storageError("read", path.join(folder, place), error);
      },
    );
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (entry.name.startsWith(".") || entry.name === "node_modules") continue;
      const file = place === "" ? entry.name : `${place}/${entry.name}`;
      if (entry.isDirectory()) await visit(file);
      else if (entry.isFile()) {
        const { size, mtimeMs } = await stat(path.join(folder, file));
        files.push({ file, size, modified: mtimeMs });
      }
    }
  };
  await visit("");
  return files;
}

/** A file's text; undefined for one that is none: a zero byte, or no UTF-8. */
async function readIfText(file: string): Promise<string | undefined> {
  const bytes = await readFile(file).catch((error: unknown) => {
    throw storageError("read", file, error);
  });
  if (bytes.includes(0)) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    // What is not UTF-8 is reported as skipped.
    return undefined;
  }
}

const linesOf = (text: string, { firstLine, lastLine }: Passage): string =>
  text
    .split("\n")
    .slice(firstLine - 1, lastLine)
    .join("\n")
    .trim();

/**
 * Cuts a text into passages that the model reads whole: paragraphs together while they fit, a longer one at its lines. A
 * line that is too long alone is a passage of its own, which the model reads the beginning of.
 */
function passagesOf(file: string, text: string, embedder: Embedder): Passage[] {
  const lines = text.split("\n");
  // Two of the tokens are special ones.
  const sizes = lines.map((line) =>
    line.trim() === "" ? 0 : embedder.encode(line, "document").ids.length - 2,
  );
  const room = embedder.maxLength - 2;
  const passages: Passage[] = [];
  let [first, used, lastBreak] = [0, 0, -1];
  const close = (end: number) => {
    let [from, to] = [first, end];
    while (from < to && sizes[from] === 0) from++;
    while (to > from && sizes[to - 1] === 0) to--;
    if (to > from) passages.push({ file, firstLine: from + 1, lastLine: to });
    first = end;
  };
  for (let line = 0; line < lines.length; line++) {
    if (sizes[line] === 0) lastBreak = line;
    if (used + sizes[line]! > room && line > first) {
      // Better between two paragraphs than within one, unless that would leave less than half.
      const half = sizes.slice(first, Math.max(first, lastBreak)).reduce((sum, size) => sum + size, 0);
      close(lastBreak > first && half >= room / 2 ? lastBreak : line);
      used = sizes.slice(first, line).reduce((sum, size) => sum + size, 0);
    }
    used += sizes[line]!;
  }
  close(lines.length);
  return passages;
}

interface KnownFile {
  readonly state: FileState;
  readonly vectors: readonly Float32Array[];
}

/** What a kept index knows, unless another model made it. Throws FormatError for a damaged file. */
async function readCache(cache: string, embedder: Embedder): Promise<Map<string, KnownFile>> {
  const known = new Map<string, KnownFile>();
  if (!existsSync(cache)) return known;
  const file = await SafetensorsFile.open(cache);
  const parsed = cacheState.safeParse(parseState(file));
  if (!parsed.success)
    throw new FormatError(cache, "this is not a search index; delete it, or name another file with --index");
  if (parsed.data.model !== embedder.identity) return known;
  const count = Object.values(parsed.data.files).reduce((sum, { passages }) => sum + passages.length, 0);
  const entry = file.header.tensors.get("vectors");
  if (entry?.dtype !== "float32" || entry.shape.join() !== [count, embedder.size].join())
    throw new FormatError(
      cache,
      `it must hold ${count} vectors of ${embedder.size} numbers; delete it to make it again`,
    );
  const flat = new Float32Array(entry.byteLength / 4);
  await file.readInto("vectors", new Uint8Array(flat.buffer));
  let place = 0;
  for (const [name, state] of Object.entries(parsed.data.files)) {
    const vectors = state.passages.map(() => flat.slice(place * embedder.size, ++place * embedder.size));
    known.set(name, { state, vectors });
  }
  return known;
}

function parseState(file: SafetensorsFile): unknown {
  try {
    return JSON.parse(file.header.metadata["lineage"] ?? "null") as unknown;
  } catch (error) {
    throw new FormatError(file.path, "its description is not JSON; delete it to make it again", {
      cause: error,
    });
  }
}

async function writeCache(
  cache: string,
  embedder: Embedder,
  states: ReadonlyMap<string, FileState>,
  vectorsOf: ReadonlyMap<string, readonly Float32Array[]>,
): Promise<void> {
  const vectors = [...states.keys()].flatMap((file) => vectorsOf.get(file)!);
  const flat = new Float32Array(vectors.length * embedder.size);
  vectors.forEach((vector, place) => {
    flat.set(vector, place * embedder.size);
  });
  const state = { version: 1, model: embedder.identity, files: Object.fromEntries(states) };
  await writeSafetensors(
    cache,
    [
      {
        name: "vectors",
        dtype: "float32",
        shape: [vectors.length, embedder.size],
        bytes: new Uint8Array(flat.buffer),
      },
    ],
    { lineage: JSON.stringify(state) },
  );
}
