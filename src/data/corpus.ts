import { LineageError } from "../base/errors.js";
import { readTextParts } from "../base/files.js";
import { stories } from "./stories/index.js";

/** What a language model learns from, read from the start as often as it is asked for. */
export interface Corpus {
  /** For messages. */
  readonly name: string;
  /** Whether `parts` are documents of their own; otherwise they are one long text, in parts of any size. */
  readonly documents: boolean;
  parts(): Iterable<string>;
}

/** A UTF-8 file as one long text; no more than a part of it is in memory at a time. */
export const textCorpus = (file: string): Corpus => ({
  name: file,
  documents: false,
  parts: () => readTextParts(file),
});

/** `count` stories of the embedded corpus. */
export const storyCorpus = (options: { seed: number; count: number }): Corpus => ({
  name: "stories",
  documents: true,
  parts: () => stories(options),
});

export interface CorpusSize {
  /** UTF-16 code units. */
  readonly characters: number;
  readonly documents: number;
}

/**
 * Reads a corpus once: how long it is, every character of it to `onPart`. Throws `data` for one without a letter in it.
 * The event loop gets a turn after every part.
 */
export async function measureCorpus(
  corpus: Corpus,
  { signal, onPart }: { signal?: AbortSignal | undefined; onPart?: (text: string) => void } = {},
): Promise<CorpusSize> {
  let [characters, documents, empty] = [0, 0, true];
  for await (const part of unhurried(corpus.parts(), signal)) {
    characters += part.length;
    documents++;
    empty &&= part.trim() === "";
    onPart?.(part);
  }
  if (empty) throw new LineageError("data", `${corpus.name} is empty; give a file with text`);
  return { characters, documents: corpus.documents ? documents : 1 };
}

/** The items of a synchronous iterable, with turns for the event loop every few milliseconds and an end at an abort. */
export async function* unhurried<T>(items: Iterable<T>, signal: AbortSignal | undefined): AsyncGenerator<T> {
  let pause = performance.now() + 8;
  for (const item of items) {
    yield item;
    if (performance.now() > pause) {
      await new Promise((resolve) => setImmediate(resolve));
      signal?.throwIfAborted();
      pause = performance.now() + 8;
    }
  }
}

/** A text to tokenize at once, and whether it is in the held-out part and the last of its document. */
export interface Piece {
  readonly text: string;
  readonly heldOut: boolean;
  readonly ends: boolean;
}

/** Turns a piece of text into token ids. */
export type Encode = (text: string) => readonly number[];

/** Characters that a piece has at least, except the last one. */
const pieceLength = 2 ** 17;
/** Characters on both sides of a cut within which tokens must stay the same. */
const nearby = 48;
const attempts = 24;

/**
 * A corpus in pieces that give the same tokens one by one as they give together, its last part held out: the share
 * `heldOut` of the documents, or of the characters of one long text.
 */
export function* piecesOf(
  corpus: Corpus,
  size: CorpusSize,
  heldOut: number,
  encode: Encode,
): Generator<Piece> {
  if (corpus.documents) {
    const place = Math.ceil(size.documents * (1 - heldOut));
    let index = 0;
    for (const text of corpus.parts()) yield { text, heldOut: index++ >= place, ends: true };
    return;
  }
  let left = Math.floor(size.characters * (1 - heldOut));
  let [text, held] = ["", false];
  for (const part of corpus.parts()) {
    text += part;
    if (!held && text.length >= left) {
      // Not through the middle of a pair of surrogates.
      const place = left + (/[\uDC00-\uDFFF]/.test(text.charAt(left)) ? 1 : 0);
      yield { text: text.slice(0, place), heldOut: false, ends: true };
      [text, held] = [text.slice(place), true];
    }
    if (text.length >= pieceLength) {
      const place = findCut(text, encode);
      if (place > 0) {
        yield { text: text.slice(0, place), heldOut: held, ends: false };
        text = text.slice(place);
        left -= place;
      }
    }
  }
  yield { text, heldOut: held, ends: true };
}

/**
 * The last place in a long text where a cut changes no token nearby: before a space or after a line break that stands
 * alone between words. 0 where none of the last ones is such a place, and more text has to come.
 */
function findCut(text: string, encode: Encode): number {
  let tried = 0;
  for (let place = text.length - nearby; place > text.length / 2 && tried < attempts; place--) {
    const before = text.charAt(place - 1);
    const alone =
      text.charAt(place) === " "
        ? /\S/.test(before) && /\S/.test(text.charAt(place + 1))
        : before === "\n" && /\S/.test(text.charAt(place)) && /\S/.test(text.charAt(place - 2));
    if (!alone) continue;
    tried++;
    const [left, right] = [text.slice(place - nearby, place), text.slice(place, place + nearby)];
    if (encode(left + right).join() === [...encode(left), ...encode(right)].join()) return place;
  }
  // A tokenizer that begins every text in its own way (SentencePiece's space) agrees nowhere: a piece then begins as a
  // text does. It must not wait for the end of a file that may be larger than memory.
  if (text.length < 8 * pieceLength) return 0;
  const space = text.lastIndexOf(" ", text.length - nearby);
  if (space > 0) return space;
  return text.length - nearby + (/[\uDC00-\uDFFF]/.test(text.charAt(text.length - nearby)) ? 1 : 0);
}

/** The token ids of a whole corpus, read piece by piece. */
export function* encodeCorpus(corpus: Corpus, encode: Encode): Generator<number> {
  for (const { text } of piecesOf(corpus, { characters: Infinity, documents: Infinity }, 0, encode))
    yield* encode(text);
}
