import { LineageError } from "../base/errors.js";

/** Makes tokens of a word. */
export interface Model {
  /**
   * Ids of a word's tokens. Throws `tokenizer` for a part that no token stands for.
   * @param spans takes the start and the end of each token within the word, in bytes of UTF-8
   */
  encode(word: string, spans?: number[]): readonly number[];
}

/** What every model is made from. */
export interface ModelContext {
  readonly vocabulary: ReadonlyMap<string, number>;
  /** Tokens that no word is ever cut into: special ones that are to be read as text. */
  readonly hidden: ReadonlySet<string>;
}

/** A part of a text that no token stands for. */
export function noToken(part: string): LineageError {
  return new LineageError(
    "tokenizer",
    `the tokenizer has no token for ${JSON.stringify(part.slice(0, 40))}, nor one for what is unknown`,
  );
}

/** Words whose tokens are remembered. */
const rememberedWords = 2 ** 15;
const longestRememberedWord = 64;

/** A model that remembers the tokens of short words. */
export function remembering(model: Model): Model {
  const known = new Map<string, readonly number[]>();
  return {
    encode(word, spans) {
      if (spans || word.length > longestRememberedWord) return model.encode(word, spans);
      let ids = known.get(word);
      if (ids) return ids;
      ids = model.encode(word);
      if (known.size >= rememberedWords) known.clear();
      known.set(word, ids);
      return ids;
    },
  };
}
