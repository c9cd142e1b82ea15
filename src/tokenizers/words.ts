import { Entries, Reading } from "./entries.js";
import { bertNormalizer } from "./from-vocabulary.js";
import { createNormalizer } from "./normalizers.js";
import { createPreTokenizer } from "./pre-tokenizers.js";
import { TracedText } from "./traced-text.js";

/** The cut into words by BERT's rules, by which a tokenizer that is being learned will run. */
export function bertWords(lowercase: boolean): (document: string) => string[] {
  const reading = new Reading("the trainer");
  const normalize = createNormalizer(new Entries(bertNormalizer({ lowercase }), "normalizer", reading), {
    sentencePiece: false,
  });
  const cut = createPreTokenizer(new Entries({ type: "BertPreTokenizer" }, "pre_tokenizer", reading));
  return (document) => cut(normalize(TracedText.of(document, false))).map(({ text }) => text);
}

/** The characters that occur most often in counted words. */
export function mostFrequentCharacters(counts: ReadonlyMap<string, number>, limit: number): Set<string> {
  const frequency = new Map<string, number>();
  for (const [word, count] of counts)
    for (const character of word) frequency.set(character, (frequency.get(character) ?? 0) + count);
  const ranked = [...frequency].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  return new Set(ranked.slice(0, limit).map(([character]) => character));
}
