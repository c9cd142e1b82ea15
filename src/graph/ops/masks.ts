import { ShapeError } from "../../base/errors.js";
import { type Dim, subtractDims } from "../dims.js";
import type { Tensor } from "../tensor.js";
import { add, greaterEqual, less, logicalAnd, logicalOr, sub, where } from "./elementwise.js";
import { range, scalar } from "./leaf.js";
import { unsqueeze } from "./shape.js";

/** A score that softmax turns into exactly 0; finite, so that a row with nothing to look at gives no NaN. */
const maskedScore = (dtype: Tensor["dtype"]): number => (dtype === "float16" ? -6e4 : -1e30);

/** 0 where a mask allows, the masked score elsewhere: one broadcast addition instead of a choice per score. */
export const maskBias = (mask: Tensor, dtype: Tensor["dtype"]): Tensor =>
  where(mask, scalar(0, dtype), scalar(maskedScore(dtype), dtype));

/**
 * Bool `[queryLength, keyLength]`: key `j` is not after query `i`, when the last query is at the last key; nor `window` or
 * more before it.
 */
export function causalMask(queryLength: Dim, keyLength: Dim, queryOffset: Dim = 0, window?: number): Tensor {
  const queries = unsqueeze(range(queryLength, "int64"), 1);
  const keys = unsqueeze(range(keyLength, "int64"), 0);
  if (typeof queryOffset === "number") {
    const places = queryOffset === 0 ? queries : add(queries, queryOffset);
    const past = greaterEqual(places, keys);
    return window === undefined ? past : logicalAnd(past, less(sub(places, keys), window));
  }
  throw new ShapeError(
    "causalMask: the offset of the first query must be a number; pass a mask for a symbolic one",
  );
}

/**
 * Bool `[batch, 1, length, length]` of a prefix language model, Raffel et al. 2020, figure 4: a query sees what is not after
 * it, and every key of the prefix. @param prefix bool `[batch, length]`: tokens of the prefix
 * @param queryOffset keys before the first query
 */
export const prefixMask = (prefix: Tensor, queryOffset = 0): Tensor => {
  const length = prefix.dim(1);
  return logicalOr(
    causalMask(subtractDims(length, queryOffset), length, queryOffset),
    unsqueeze(unsqueeze(prefix, 1), 1),
  );
};
