import { bytesOf } from "./bpe.js";
import { utf8, utf8Length } from "./bytes.js";
import { type Model, type ModelContext, noToken } from "./model.js";

export interface UnigramModelOptions {
  readonly pieces: readonly (readonly [piece: string, score: number])[];
  readonly unknownId?: number;
  readonly byteFallback: boolean;
  /** As SentencePiece itself runs it: in single precision, with pieces that always win, and none for a byte within a text. */
  readonly sentencePiece?: {
    readonly userDefined: ReadonlySet<string>;
    readonly neverCut: (piece: string) => boolean;
  };
}

interface TrieNode {
  readonly children: Map<number, TrieNode>;
  id: number;
  score: number;
}

const node = (): TrieNode => ({ children: new Map(), id: -1, score: 0 });

/** Of a piece that the model cuts and the vocabulary has no id for. */
const lackingId = 2 ** 30;

/** Taken from the lowest score for a character that no piece covers. */
const unknownPenalty = 10;

/** The most probable cut of a text under a unigram model, Kudo 2018. */
export function createUnigram(
  { vocabulary, hidden }: ModelContext,
  { pieces, unknownId, byteFallback, sentencePiece }: UnigramModelOptions,
): Model {
  const rounded = sentencePiece ? Math.fround : (score: number) => score;
  const userDefined = sentencePiece?.userDefined;
  const cuts = ([piece]: readonly [string, number]) => !hidden.has(piece) && !sentencePiece?.neverCut(piece);
  const counted = sentencePiece
    ? pieces.filter((entry) => cuts(entry) && !userDefined!.has(entry[0]))
    : pieces;
  let lowest = Infinity;
  let highest = -Infinity;
  for (const [, score] of counted) {
    lowest = Math.min(lowest, score);
    highest = Math.max(highest, score);
  }
  const unknownScore = rounded(lowest - unknownPenalty);
  const root = node();
  for (const entry of pieces) {
    if (!cuts(entry)) continue;
    const [piece, score] = entry;
    let place = root;
    for (let unit = 0; unit < piece.length; unit++) {
      const code = piece.charCodeAt(unit);
      let child = place.children.get(code);
      if (!child) place.children.set(code, (child = node()));
      place = child;
    }
    // Of a piece that is there twice, the last one holds.
    place.id = vocabulary.get(piece) ?? lackingId;
    place.score = userDefined?.has(piece) ? utf8(piece).length * highest - 0.1 : score;
  }

  /** Pieces from the last to the first, as `start, end, id`. */
  const cut = (text: string): number[] => {
    const count = text.length;
    const best = sentencePiece ? new Float32Array(count + 1) : new Float64Array(count + 1);
    const from = new Int32Array(count + 1).fill(-1);
    const ids = new Int32Array(count + 1);
    for (let start = 0; start < count;) {
      const size = text.codePointAt(start)! > 0xffff ? 2 : 1;
      const before = best[start]!;
      let single = false;
      let place: TrieNode | undefined = root;
      for (let end = start; end < count;) {
        place = place.children.get(text.charCodeAt(end++));
        if (!place) break;
        if (place.id < 0) continue;
        const total = rounded(before + place.score);
        if (from[end] === -1 || total > best[end]!) {
          best[end] = total;
          from[end] = start;
          ids[end] = place.id;
        }
        single ||= end === start + size;
      }
      if (!single) {
        const end = start + size;
        const total = rounded(before + unknownScore);
        if (from[end] === -1 || total > best[end]!) {
          best[end] = total;
          from[end] = start;
          ids[end] = -1;
        }
      }
      start += size;
    }
    const found: number[] = [];
    for (let end = count; end > 0; end = from[end]!) found.push(from[end]!, end, ids[end]!);
    return found;
  };

  return {
    encode(word, spans) {
      const found = cut(word);
      const ids: number[] = [];
      let place = 0;
      for (let at = found.length - 3; at >= 0; at -= 3) {
        const start = found[at]!;
        let end = found[at + 1]!;
        let id = found[at + 2]!;
        if (id === -1 || id === unknownId) {
          // Unknown parts next to each other count as one.
          while (at >= 3 && (found[at - 1] === -1 || found[at - 1] === unknownId)) {
            at -= 3;
            end = found[at + 1]!;
          }
          const part = word.slice(start, end);
          id = hidden.has(part) ? -1 : (vocabulary.get(part) ?? -1);
          if (id === -1) {
            const fallback = byteFallback ? bytesOf(part, vocabulary) : undefined;
            const bytes = spans ? byteLength(part) : 0;
            if (!fallback && unknownId === undefined) throw noToken(part);
            for (const token of fallback ?? [unknownId!]) {
              ids.push(token);
              spans?.push(place, place + bytes);
            }
            place += bytes;
            continue;
          }
        }
        if (id === lackingId && unknownId === undefined) throw noToken(word.slice(start, end));
        ids.push(id === lackingId ? unknownId! : id);
        if (spans) {
          const bytes = byteLength(word.slice(start, end));
          spans.push(place, place + bytes);
          place += bytes;
        }
      }
      return ids;
    },
  };
}

function byteLength(text: string): number {
  let bytes = 0;
  for (const character of text) bytes += utf8Length(character.codePointAt(0)!);
  return bytes;
}
