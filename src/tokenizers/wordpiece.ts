import { utf8 } from "./bytes.js";
import { type Model, type ModelContext, noToken } from "./model.js";

export interface WordPieceModelOptions {
  /** Stands for a word that cannot be cut into pieces. */
  readonly unknownToken: string;
  /** Before every piece of a word but the first. */
  readonly continuingPrefix: string;
  /** Characters of the longest word that is cut. */
  readonly maxCharacters: number;
}

/** The longest piece from the left, again and again: Devlin et al. 2019. */
export function createWordPiece(
  { vocabulary, hidden }: ModelContext,
  { unknownToken, continuingPrefix, maxCharacters }: WordPieceModelOptions,
): Model {
  const unknown = vocabulary.get(unknownToken);
  let longest = 0;
  for (const token of vocabulary.keys()) longest = Math.max(longest, token.length);
  const idOf = (piece: string) => (hidden.has(piece) ? undefined : vocabulary.get(piece));

  const cut = (word: string, spans?: number[]): number[] | undefined => {
    if (word.length > maxCharacters && Array.from(word).length > maxCharacters) return undefined;
    const ids: number[] = [];
    for (let start = 0; start < word.length;) {
      let end = Math.min(word.length, start + longest);
      let id: number | undefined;
      for (; end > start; end--) {
        // No piece ends within a character.
        if (isTrail(word, end)) continue;
        const piece = word.slice(start, end);
        id = idOf(start > 0 ? continuingPrefix + piece : piece);
        if (id !== undefined) break;
      }
      if (id === undefined) return undefined;
      ids.push(id);
      if (spans) spans.push(utf8(word.slice(0, start)).length, utf8(word.slice(0, end)).length);
      start = end;
    }
    return ids;
  };
  return {
    encode(word, spans) {
      const own: number[] | undefined = spans && [];
      const ids = cut(word, own);
      if (ids) {
        if (own) spans!.push(...own);
        return ids;
      }
      if (unknown === undefined) throw noToken(word);
      spans?.push(0, utf8(word).length);
      return [unknown];
    },
  };
}

const isTrail = (text: string, unit: number): boolean => {
  const code = text.charCodeAt(unit);
  return code >= 0xdc00 && code <= 0xdfff;
};

/** Every word is a token, or unknown. */
export function createWordLevel({ vocabulary, hidden }: ModelContext, unknownToken: string): Model {
  const unknown = vocabulary.get(unknownToken);
  return {
    encode(word, spans) {
      const id = (hidden.has(word) ? undefined : vocabulary.get(word)) ?? unknown;
      if (id === undefined) throw noToken(word);
      spans?.push(0, utf8(word).length);
      return [id];
    },
  };
}
