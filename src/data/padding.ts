import type { Encoding, Tokenizer } from "../tokenizers/index.js";
import type { BatchTensor } from "./batch.js";

/** A row of an encoder's batch. */
export type EncoderRow = Pick<Encoding, "ids" | "typeIds">;

export interface Padding {
  readonly padId: number;
  /** Whether padding comes before the tokens, as XLNet has it. */
  readonly left: boolean;
}

/** How a tokenizer's rows are filled up. */
export const paddingOf = (tokenizer: Tokenizer, padTokenId: number): Padding => ({
  padId: tokenizer.padId ?? padTokenId,
  left: tokenizer.config["padding_side"] === "left",
});

/** Rows filled up to the longest: what `encoderInputSpecs` names. */
export function padRows(
  rows: readonly EncoderRow[],
  { padId, left }: Padding,
): Record<"inputIds" | "tokenTypeIds" | "attentionMask", BatchTensor> {
  const length = Math.max(1, ...rows.map(({ ids }) => ids.length));
  const shape = [rows.length, length];
  const inputIds = new Int32Array(rows.length * length).fill(padId);
  const tokenTypeIds = new Int32Array(rows.length * length);
  const attentionMask = new Uint8Array(rows.length * length);
  rows.forEach(({ ids, typeIds }, row) => {
    const start = row * length + (left ? length - ids.length : 0);
    inputIds.set(ids, start);
    tokenTypeIds.set(typeIds, start);
    attentionMask.fill(1, start, start + ids.length);
  });
  return {
    inputIds: { data: inputIds, shape },
    tokenTypeIds: { data: tokenTypeIds, shape },
    attentionMask: { data: attentionMask, shape },
  };
}
