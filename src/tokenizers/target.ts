import type { Tokenizer } from "./tokenizer.js";

/** What an encoder-decoder learns to write of a text: its ids with the tokens that the tokenizer puts around it, which end it. */
export function targetIds({ target }: Tokenizer, text: string): readonly number[] {
  const { ids } = target.encodePair(text);
  // A text that began with its end would end there.
  return ids.length > 1 && ids[0] === target.eosId ? ids.slice(1) : ids;
}
