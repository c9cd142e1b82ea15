import { type AddedToken, AddedTokenFinder } from "./added-tokens.js";
import type { Model } from "./model.js";
import type { Normalizer } from "./normalizers.js";
import type { PreTokenizer } from "./pre-tokenizers.js";
import { TracedText } from "./traced-text.js";

/** A token of a text and the part of the text that it stands for, in UTF-16 units as `slice` takes them. */
export interface PlacedToken {
  readonly id: number;
  readonly start: number;
  readonly end: number;
  /** The token as it is spelled; of an added token the part of the text, with the spaces that it takes. */
  readonly surface: string;
}

export interface PipelineParts {
  readonly addedTokens: readonly AddedToken[];
  readonly normalizer: Normalizer | undefined;
  readonly preTokenizer: PreTokenizer | undefined;
  readonly model: Model;
  /** The model that never makes a special token of a text. */
  readonly plainModel: () => Model;
  /** Whether where a word comes from decides how it is cut: a mark before the first word alone. */
  readonly needsPlaces: boolean;
  /** A token as its encoding shows it, for the part of a word that it stands for. */
  readonly surfaceOf: (id: number, text: string) => string;
}

/** From a text to its tokens: added tokens out, normalised, cut into words, each word into tokens. */
export class Pipeline {
  private readonly raw: AddedTokenFinder;
  private readonly normalized: AddedTokenFinder;

  constructor(private readonly parts: PipelineParts) {
    const { addedTokens, normalizer } = parts;
    const special = addedTokens.filter((token) => token.special);
    const ordered = [...special, ...addedTokens.filter((token) => !token.special)];
    this.raw = new AddedTokenFinder(
      ordered.filter(({ normalized }) => !normalized).map((token) => [token.content, token] as const),
    );
    this.normalized = new AddedTokenFinder(
      ordered
        .filter(({ normalized }) => normalized)
        .map((token) => {
          const text = TracedText.of(token.content, false);
          return [normalizer ? normalizer(text).text : token.content, token] as const;
        }),
    );
  }

  /** @param parseSpecial whether special tokens that are spelled out in the text are found */
  encode(text: string, parseSpecial: boolean): number[] {
    const model = parseSpecial ? this.parts.model : this.parts.plainModel();
    const ids: number[] = [];
    this.run(TracedText.of(text, this.parts.needsPlaces), parseSpecial, {
      added: (token) => void ids.push(token.id),
      word: (word) => {
        for (const id of model.encode(word.text)) ids.push(id);
      },
    });
    return ids;
  }

  /** The same tokens with their places. */
  place(text: string, parseSpecial = true): PlacedToken[] {
    const { surfaceOf } = this.parts;
    const model = parseSpecial ? this.parts.model : this.parts.plainModel();
    const tokens: PlacedToken[] = [];
    this.run(TracedText.of(text, true), parseSpecial, {
      added: (token, match) => {
        const [start, end] = match.placeOf(0, match.text.length);
        tokens.push({ id: token.id, start, end, surface: match.text });
      },
      word: (word) => {
        const spans: number[] = [];
        const ids = model.encode(word.text, spans);
        const units = unitsOfBytes(word.text);
        ids.forEach((id, index) => {
          const [from, to] = [spans[2 * index]!, spans[2 * index + 1]!];
          const first = units.start[Math.min(from, units.start.length - 1)] ?? 0;
          const last = units.end[Math.min(Math.max(from, to - 1), units.end.length - 1)] ?? 0;
          const [start, end] = word.placeOf(first, last);
          tokens.push({ id, start, end, surface: surfaceOf(id, word.text.slice(first, last)) });
        });
      },
    });
    return tokens;
  }

  private run(
    whole: TracedText,
    parseSpecial: boolean,
    take: {
      readonly added: (token: AddedToken, match: TracedText) => void;
      readonly word: (word: TracedText) => void;
    },
  ): void {
    const { normalizer, preTokenizer } = this.parts;
    const keeps = (token: AddedToken) => parseSpecial || !token.special;
    const inOrder = (text: TracedText, finder: AddedTokenFinder, rest: (text: TracedText) => void): void => {
      const parts = finder.split(text.text, keeps);
      if (!parts) {
        if (text.text !== "") rest(text.slice(0, text.text.length));
        return;
      }
      for (const { token, start, end } of parts) {
        const part = text.slice(start, end);
        if (token) take.added(token, part);
        else rest(part);
      }
    };
    inOrder(whole, this.raw, (section) => {
      const text = normalizer ? normalizer(section) : section;
      inOrder(text, this.normalized, (part) => {
        if (!preTokenizer) take.word(part);
        else for (const word of preTokenizer(part)) take.word(word);
      });
    });
  }
}

/** For each byte of a text in UTF-8, the units at which its character starts and ends. */
function unitsOfBytes(text: string): { start: number[]; end: number[] } {
  const start: number[] = [];
  const end: number[] = [];
  let unit = 0;
  for (const character of text) {
    const code = character.codePointAt(0)!;
    const bytes = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (let byte = 0; byte < bytes; byte++) {
      start.push(unit);
      end.push(unit + character.length);
    }
    unit += character.length;
  }
  return { start, end };
}
