import { LineageError } from "../base/errors.js";
import type { HeadSystem } from "../models/index.js";
import { Tokenizer, type TokenizerDefinition, template, withTokens } from "../tokenizers/index.js";

/**
 * The tokenizer with which a system reads the rows of a task: an encoder's own; a decoder's with the tokens that its paper
 * puts around texts, GPT-1's start, delimiter and extract, which are new ones. Another decoder reads a row as its tokenizer
 * writes it, its end-of-text token between two texts where they would otherwise run into each other.
 */
export function rowTokenizer(tokenizer: Tokenizer, system: HeadSystem): Tokenizer {
  if (system.kind === "encoder") return tokenizer;
  const { rowTokens } = system;
  if (rowTokens) {
    const { start, delimiter, extract } = rowTokens;
    const names = [start, delimiter, extract];
    if (names.every((name) => tokenizer.tokenToId(name) !== undefined)) return tokenizer;
    if (tokenizer.files)
      throw new LineageError(
        "unsupported",
        `the tokenizer's files (${[...tokenizer.files.keys()].join(", ")}) take no further tokens, and the task needs ${names.join(", ")}`,
      );
    return withTemplate(withTokens(tokenizer, names), {
      single: [start, "A", extract],
      pair: [start, "A", delimiter, "B", extract],
    });
  }
  const between = tokenizer.encodePair("a", "b").specialMask.slice(1, -1);
  const separator =
    tokenizer.endOfTextId === undefined ? undefined : tokenizer.idToToken(tokenizer.endOfTextId);
  if (between.includes(true) || separator === undefined || tokenizer.files) return tokenizer;
  const own = tokenizer.encodePair("a");
  // What begins a text begins the row, too.
  const before = own.specialMask[0] ? [tokenizer.idToToken(own.ids[0]!)!] : [];
  return withTemplate(tokenizer, { single: [...before, "A"], pair: [...before, "A", separator, "B"] });
}

/** A tokenizer that puts these tokens around its texts, `A` and `B`. */
function withTemplate(
  tokenizer: Tokenizer,
  { single, pair }: { readonly single: readonly string[]; readonly pair: readonly string[] },
): Tokenizer {
  const { definition, config } = tokenizer;
  const names = new Set(pair.filter((name) => name !== "A" && name !== "B"));
  const processing = template(
    single,
    pair,
    Array.from(names, (name) => [name, tokenizer.tokenToId(name)!] as const),
  );
  // A byte-level tokenizer's own processor says where tokens stand in the text.
  const { post_processor: own } = definition;
  const places = own?.type === "ByteLevel" ? [own] : [];
  const whole: TokenizerDefinition = {
    ...definition,
    post_processor:
      places.length === 0 ? processing : { type: "Sequence", processors: [...places, processing] },
  };
  return new Tokenizer(whole, config);
}
