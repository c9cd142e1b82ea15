import { type Dim, type Tensor, add, clip, constant, gather, range, sub, unsqueeze } from "../graph/index.js";
import type { Initializer } from "./initializers.js";
import { Embedding } from "./layers.js";

export interface RelativeBiasOptions {
  readonly numHeads: number;
  /** Learned biases of each head. */
  readonly buckets: number;
  /** Distance from which on all share the last bucket. */
  readonly maxDistance: number;
  /** Whether keys after the query have buckets of their own; else they share the first. */
  readonly bidirectional: boolean;
  readonly initializer: Initializer;
}

/**
 * The bucket of the distance from a query to a key: one for each distance up to half of them, then by the logarithm of the
 * distance. In both directions each has half of the buckets. Raffel et al. 2020, section 2.1, in the arithmetic of the
 * published code (float32).
 */
export function relativeBucket(
  distance: number,
  {
    buckets,
    maxDistance,
    bidirectional,
  }: Pick<RelativeBiasOptions, "buckets" | "maxDistance" | "bidirectional">,
): number {
  const count = bidirectional ? Math.floor(buckets / 2) : buckets;
  const first = bidirectional && distance > 0 ? count : 0;
  const away = bidirectional ? Math.abs(distance) : Math.max(0, -distance);
  const exact = Math.floor(count / 2);
  if (away < exact) return first + away;
  const logarithm = Math.fround(Math.log(Math.fround(away / exact)));
  const share = Math.fround(logarithm / Math.log(maxDistance / exact));
  return first + Math.min(count - 1, exact + Math.floor(Math.fround(share * (count - exact))));
}

/**
 * A bias of every head for every distance between a query and a key, added to the scores of attention: `[1, numHeads,
 * queryLength, keyLength]`. Raffel et al. 2020, section 2.1.
 */
export class RelativeBias extends Embedding {
  private readonly reach: number;
  /** Bucket of each distance from `-reach` to `reach`. */
  private readonly bucketOf: Int32Array;

  constructor(options: RelativeBiasOptions) {
    super(options.buckets, options.numHeads, options.initializer);
    this.reach = options.maxDistance;
    this.bucketOf = Int32Array.from({ length: 2 * this.reach + 1 }, (_, index) =>
      relativeBucket(index - this.reach, options),
    );
  }

  /** The biases of queries and keys that are counted from 0, the first query being at the first key. */
  between(queryLength: Dim, keyLength: Dim): Tensor {
    const queries = unsqueeze(range(queryLength, "int32"), 1);
    const keys = unsqueeze(range(keyLength, "int32"), 0);
    return unsqueeze(this.ofDistances(sub(keys, queries)).transpose([2, 0, 1]), 0);
  }

  /**
   * The biases of queries at some positions, `[batch, queryLength]`, and of keys, `[keyLength]`: `[batch, numHeads,
   * queryLength, keyLength]`.
   */
  at(queries: Tensor, keys: Tensor): Tensor {
    return this.ofDistances(sub(keys, unsqueeze(queries, 2))).transpose([0, 3, 1, 2]);
  }

  /** `[...]` -> `[..., numHeads]`. */
  private ofDistances(distances: Tensor): Tensor {
    const perDistance = this.forward(constant("int32", [this.bucketOf.length], this.bucketOf));
    return gather(perDistance, add(clip(distances, -this.reach, this.reach), this.reach));
  }
}
