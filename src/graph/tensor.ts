import type { DType } from "../base/dtype.js";
import { type Dim, type Shape, formatShape } from "./dims.js";
import type { Node } from "./op.js";
import * as activation from "./ops/activation.js";
import * as elementwise from "./ops/elementwise.js";
import type { Operand } from "./ops/elementwise.js";
import * as indexing from "./ops/indexing.js";
import * as product from "./ops/matmul.js";
import * as reduce from "./ops/reduce.js";
import * as layout from "./ops/shape.js";

/**
 * A value of a computation that is being written down: its dtype and shape are known, its numbers are not. Every operation
 * is a function of `lineage/graph`; the most common ones are methods too.
 */
export class Tensor {
  constructor(
    readonly node: Node,
    /** Which output of its node it is. */
    readonly index: number,
    readonly dtype: DType,
    readonly shape: Shape,
  ) {}

  get rank(): number {
    return this.shape.length;
  }

  /** The size of one axis; negative axes count from the end. */
  dim(axis: number): Dim {
    return this.shape[reduce.normalizeAxis(axis, this.rank)]!;
  }

  /** dtype and shape, for messages: `float32 [batch, 128]`. */
  describe(): string {
    return `${this.dtype} ${formatShape(this.shape)}`;
  }

  add(other: Operand): Tensor {
    return elementwise.add(this, other);
  }
  sub(other: Operand): Tensor {
    return elementwise.sub(this, other);
  }
  mul(other: Operand): Tensor {
    return elementwise.mul(this, other);
  }
  div(other: Operand): Tensor {
    return elementwise.div(this, other);
  }
  neg(): Tensor {
    return elementwise.neg(this);
  }
  square(): Tensor {
    return elementwise.square(this);
  }
  sqrt(): Tensor {
    return elementwise.sqrt(this);
  }
  exp(): Tensor {
    return elementwise.exp(this);
  }
  log(): Tensor {
    return elementwise.log(this);
  }
  tanh(): Tensor {
    return elementwise.tanh(this);
  }
  cast(dtype: DType): Tensor {
    return elementwise.cast(this, dtype);
  }
  matmul(other: Tensor, options?: product.MatmulOptions): Tensor {
    return product.matmul(this, other, options);
  }
  sum(options?: reduce.ReduceOptions): Tensor {
    return reduce.sum(this, options);
  }
  mean(options?: reduce.ReduceOptions): Tensor {
    return reduce.mean(this, options);
  }
  max(options?: reduce.ReduceOptions): Tensor {
    return reduce.max(this, options);
  }
  softmax(axis?: number): Tensor {
    return activation.softmax(this, axis);
  }
  reshape(shape: Shape): Tensor {
    return layout.reshape(this, shape);
  }
  transpose(permutation?: readonly number[]): Tensor {
    return layout.transpose(this, permutation);
  }
  slice(axis: number, start: Dim, end?: Dim): Tensor {
    return layout.slice(this, axis, start, end);
  }
  split(sizes: readonly Dim[] | number, axis?: number): Tensor[] {
    return layout.split(this, sizes, axis);
  }
  expand(shape: Shape): Tensor {
    return layout.expand(this, shape);
  }
  gather(indices: Tensor, axis?: number): Tensor {
    return indexing.gather(this, indices, axis);
  }
}
