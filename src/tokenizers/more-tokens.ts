import { LineageError } from "../base/errors.js";
import { addedToken } from "./definitions.js";
import { Tokenizer } from "./tokenizer.js";

/** Tokens that tell a model which denoiser a row is of, Tay et al. 2022 (UL2), section 3.1.3: regular spans, a text's end, extreme ones. */
export const modeTokens = { regular: "[NLU]", sequential: "[S2S]", extreme: "[NLG]" } as const;

/** The token that marks a document, such as `<|toxicity:low|>`. */
export const controlToken = (column: string, label: string): string => `<|${column}:${label}|>`;

/** The tokens of a tokenizer that mark documents, as `column=label`. */
export const controlsOf = (tokenizer: Tokenizer): string[] =>
  tokenizer.addedTokens.flatMap(({ content }) => {
    const [, column, label] = /^<\|([^:|]+):([^|]+)\|>$/.exec(content) ?? [];
    return column === undefined ? [] : [`${column}=${label}`];
  });

/**
 * A prompt after the tokens of some controls, each `column=label`, as documents with these labels began. Throws `tokenizer` for one
 * that the model did not learn, with those that it did.
 */
export function controlled(tokenizer: Tokenizer, prompt: string, controls: readonly string[] = []): string {
  const known = controlsOf(tokenizer);
  const tokens = controls.map((control) => {
    const place = control.indexOf("=");
    if (!known.includes(control))
      throw new LineageError(
        "tokenizer",
        `the model has no control ${JSON.stringify(control)}; ${known.length > 0 ? `it has ${known.join(", ")}` : "it learned none (train --control-column)"}`,
      );
    return controlToken(control.slice(0, place), control.slice(place + 1));
  });
  return tokens.join("") + prompt;
}

/** The token that stands for the hidden span number `index` of a text, as T5 and UL2 write it. */
export const sentinelToken = (index: number): string => `<extra_id_${index}>`;

/** The sentinels of a tokenizer in their order: `<extra_id_0>`, `<extra_id_1>`, … */
export function sentinelsOf(tokenizer: Tokenizer): number[] {
  const sentinels: number[] = [];
  for (;;) {
    const id = tokenizer.tokenToId(sentinelToken(sentinels.length));
    if (id === undefined) return sentinels;
    sentinels.push(id);
  }
}

/**
 * A tokenizer that knows further special tokens besides its own, whose ids stay; those that it has are not added again. The
 * others get the ids from `vocabSize` on, in their order.
 * @param prompt the one of them that stands before every prompt. Default: as it was
 * Throws `tokenizer` for one whose files say everything, such as Marian's.
 */
export function withTokens(
  tokenizer: Tokenizer,
  tokens: readonly string[],
  { prompt }: { readonly prompt?: string | undefined } = {},
): Tokenizer {
  const fresh = [...new Set(tokens)].filter((token) => tokenizer.tokenToId(token) === undefined);
  if (fresh.length === 0 && prompt === undefined) return tokenizer;
  if (tokenizer.files || tokenizer.target !== tokenizer)
    throw new LineageError("tokenizer", "no tokens can be added to a tokenizer of this kind");
  const own = tokenizer.addedTokens.map((token) => ({
    id: token.id,
    content: token.content,
    single_word: token.singleWord,
    lstrip: token.leftStrip,
    rstrip: token.rightStrip,
    normalized: token.normalized,
    special: token.special,
  }));
  return new Tokenizer(
    {
      ...tokenizer.definition,
      added_tokens: [...own, ...fresh.map((token, index) => addedToken(tokenizer.vocabSize + index, token))],
    },
    { ...tokenizer.config, ...(prompt !== undefined && { lineage_prompt: prompt }) },
  );
}
