import { open } from "node:fs/promises";
import { LineageError } from "../base/errors.js";
import { storageError } from "../base/files.js";

/** Words in a row that make a question one that a model may have been trained on: GPT-3's 13, and not under 8. */
const [fewest, most] = [8, 13];

/** Words by which texts are compared: letters and digits alone, in lower case. */
const wordsOf = (text: string): string[] => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];

/**
 * How many words in a row are compared: the length of the question at the fifth percentile, from 8 to 13 (Brown et al. 2020,
 * appendix C).
 */
export function overlapLength(texts: readonly string[]): number {
  const lengths = texts.map((text) => wordsOf(text).length).sort((a, b) => a - b);
  const percentile = lengths[Math.floor(0.05 * lengths.length)] ?? most;
  return Math.min(most, Math.max(fewest, percentile));
}

/** Words of a text file, piece by piece. Throws as `readText` does where it cannot be read. */
async function* wordsIn(file: string): AsyncGenerator<string[]> {
  try {
    const handle = await open(file);
    try {
      let rest = "";
      for await (const part of handle.createReadStream({ encoding: "utf8", autoClose: false })) {
        const text = rest + String(part);
        // A word may go on in the next part.
        const cut = text.search(/[\p{L}\p{N}]*$/u);
        rest = text.slice(cut);
        yield wordsOf(text.slice(0, cut));
      }
      yield wordsOf(rest);
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw error instanceof LineageError ? error : storageError("read", file, error);
  }
}

/**
 * Which of some texts share `length` words in a row with a file that a model was trained on; a shorter text counts where all of
 * it is there. Places and punctuation do not count.
 */
export async function overlapping(
  texts: readonly string[],
  file: string,
  length = overlapLength(texts),
): Promise<Set<number>> {
  const owners = new Map<string, number[]>();
  const sizes = new Set<number>();
  for (const [place, text] of texts.entries()) {
    const words = wordsOf(text);
    const size = Math.min(length, words.length);
    if (size === 0) continue;
    sizes.add(size);
    for (let start = 0; start + size <= words.length; start++) {
      const key = words.slice(start, start + size).join(" ");
      const places = owners.get(key);
      if (!places) owners.set(key, [place]);
      else if (places.at(-1) !== place) places.push(place);
    }
  }
  const found = new Set<number>();
  let last: string[] = [];
  for await (const words of wordsIn(file)) {
    const all = [...last, ...words];
    for (const size of sizes)
      for (let end = Math.max(size, last.length + 1); end <= all.length; end++)
        for (const place of owners.get(all.slice(end - size, end).join(" ")) ?? []) found.add(place);
    last = all.slice(-length + 1);
  }
  return found;
}
