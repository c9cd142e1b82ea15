// Parts of a `tokenizer.json` that trainers and converters write.

/** An entry of a definition's `added_tokens` for a special token, which is found in raw text as it is written. */
export const addedToken = (id: number, content: string) => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
});

/** A token and its id. */
export type NamedId = readonly [token: string, id: number];

/** The post-processor that writes `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`, the second text with type 1. */
export function bertTemplate({ cls, sep }: { cls: NamedId; sep: NamedId }) {
  return template([cls[0], "A", sep[0]], [cls[0], "A", sep[0], ["B", 1], [sep[0], 1]], [cls, sep]);
}

export type TemplateEntry = string | readonly [part: string, typeId: number];

/** A `TemplateProcessing` post-processor; `A` and `B` are the texts, everything else a special token. */
export function template(
  single: readonly TemplateEntry[],
  pair: readonly TemplateEntry[],
  tokens: readonly NamedId[],
) {
  const piece = (part: TemplateEntry) => {
    const [id, typeId] = typeof part === "string" ? [part, 0] : part;
    return { [id === "A" || id === "B" ? "Sequence" : "SpecialToken"]: { id, type_id: typeId } };
  };
  return {
    type: "TemplateProcessing",
    single: single.map(piece),
    pair: pair.map(piece),
    special_tokens: Object.fromEntries(
      tokens.map(([token, id]) => [token, { id: token, ids: [id], tokens: [token] }]),
    ),
  };
}

/**
 * What `tokenizer_config.json` says, so that transformers takes `tokenizer.json` as it stands. Without a class it would take
 * the usual one of the model beside it, which for LLaMA puts tokens of its own before a text; and without the names it would
 * pass token types to models that have none, or that would take them for words.
 */
export const plainFastTokenizer = {
  tokenizer_class: "PreTrainedTokenizerFast",
  model_input_names: ["input_ids", "attention_mask"],
} as const;
