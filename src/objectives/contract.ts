import type { DType, TypedArray } from "../base/dtype.js";
import type { Tensor } from "../graph/index.js";
import type { ForwardContext, Module } from "../nn/index.js";

export interface Objective {
  readonly model: Module;
  readonly inputs: Readonly<
    Record<string, { readonly dtype: DType; readonly shape: readonly (number | string)[] }>
  >;
  /** Sums of each part of the loss over the positions that count, scalars by part name. */
  losses(inputs: Readonly<Record<string, Tensor>>, context: ForwardContext): Readonly<Record<string, Tensor>>;
  readonly lossWeights?: Readonly<Record<string, number>>;
}

export interface Batch {
  readonly tensors: Readonly<
    Record<string, { readonly data: TypedArray; readonly shape: readonly number[] }>
  >;
  readonly counts: Readonly<Record<string, number>>;
}

export interface BatchSource {
  readonly state: unknown;
  next(): Batch;
}
