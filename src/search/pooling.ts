import {
  type Tensor,
  cast,
  concat,
  cumulativeSum,
  div,
  equal,
  max,
  maximum,
  mul,
  sqrt,
  sum,
  unsqueeze,
  where,
} from "../graph/index.js";
import { firstToken } from "../nn/index.js";

/** How the states of a text's tokens become one vector, as sentence-transformers names and orders them. */
export const poolings = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"] as const;
export type Pooling = (typeof poolings)[number];

/**
 * States `[batch, sequence, hiddenSize]` and mask `[batch, sequence]` -> `[batch, hiddenSize * poolings]`, padding left out.
 * Vectors of several poolings stand one after the other.
 */
export function pooled(hidden: Tensor, mask: Tensor, chosen: readonly Pooling[]): Tensor {
  const vectors = chosen.map((pooling) => pool(hidden, mask, pooling));
  return vectors.length === 1 ? vectors[0]! : concat(vectors, 1);
}

function pool(hidden: Tensor, mask: Tensor, pooling: Pooling): Tensor {
  const real = cast(mask, "float32");
  /** Sum of the states by a weight of each, `[batch, sequence]`. */
  const weighted = (weights: Tensor): Tensor => sum(hidden.mul(unsqueeze(weights, 2)), { axes: 1 });
  const total = (weights: Tensor): Tensor => maximum(sum(weights, { axes: 1, keepDims: true }), 1e-9);
  switch (pooling) {
    case "cls":
      return firstToken(hidden);
    case "max":
      return max(where(unsqueeze(mask, 2), hidden, -1e9), { axes: 1 });
    case "mean":
      return div(weighted(real), total(real));
    case "mean_sqrt_len_tokens":
      return div(weighted(real), sqrt(total(real)));
    case "weightedmean": {
      // Later tokens weigh more: 1, 2, 3, … (Muennighoff 2022).
      const weights = mul(places(mask), real);
      return div(weighted(weights), total(weights));
    }
    case "lasttoken": {
      const last = equal(places(mask), sum(real, { axes: 1, keepDims: true }));
      return weighted(mul(cast(last, "float32"), real));
    }
  }
}

/** Number of each real token from 1, float32 `[batch, sequence]`. */
const places = (mask: Tensor): Tensor => cast(cumulativeSum(cast(mask, "int32"), 1), "float32");
