import { type DType, onnxDataType } from "../../base/dtype.js";
import { LineageError, ShapeError } from "../../base/errors.js";
import { type Shape, formatShape, productOf } from "../dims.js";
import type { Lowering } from "../lower.js";
import { defineOp } from "../op.js";
import type { Tensor } from "../tensor.js";
import { add, cast, div, greaterEqual, log, mul, cos, sqrt, sub } from "./elementwise.js";

interface RandomAttributes {
  readonly salt: number;
  readonly shape: Shape;
}

/**
 * `value ^ (value >> bits)` of uint32 without operators on bits, which the engine has on the processor alone: what each
 * byte changes by is looked up by itself and the other.
 */
function xorShiftByTable(value: string, bits: number, onnx: Lowering): string {
  const u32 = (number: number): string => onnx.scalar("uint32", number >>> 0);
  const table = onnx.once("changes of bytes", () =>
    onnx.constant(
      "uint32",
      [65_536],
      Uint32Array.from({ length: 65_536 }, (_, index) => ((index >> 8) ^ (index & 255)) - (index >> 8)),
    ),
  );
  const byte = (x: string, place: number): string => {
    const from = place === 0 ? x : onnx.op("Div", [x, u32(256 ** place)]);
    const above = onnx.op("Div", [x, u32(256 ** (place + 1))]);
    return onnx.op("Sub", [from, onnx.op("Mul", [above, u32(256)])]);
  };
  const shifted = onnx.op("Div", [value, u32(2 ** bits)]);
  let result = value;
  for (let place = 0; 8 * place < 32 - bits; place++) {
    const pair = onnx.op("Add", [onnx.op("Mul", [byte(value, place), u32(256)]), byte(shifted, place)]);
    const change = onnx.op("Gather", [table, onnx.op("Cast", [pair], { to: onnxDataType("int32") })]);
    result = onnx.op("Add", [result, onnx.op("Mul", [change, u32(256 ** place)])]);
  }
  return result;
}

const randomUniformOp = defineOp<RandomAttributes>("randomUniform", {
  shape: ([seed], { shape }) => {
    if (seed!.dtype !== "uint32" || seed!.rank !== 0) {
      throw new ShapeError(`the seed must be a uint32 scalar, not ${seed!.describe()}`);
    }
    return { dtype: "float32", shape };
  },
  derivative: () => [undefined],
  lower: ({ names: [seed], attributes: { salt, shape } }, onnx) => {
    const u32 = (value: number) => onnx.scalar("uint32", value >>> 0);
    const onCuda = onnx.device === "cuda";
    const shift = (value: string, bits: number) =>
      onCuda
        ? onnx.op("Div", [value, u32(2 ** bits)])
        : onnx.op("BitShift", [value, u32(bits)], { direction: "RIGHT" });
    const xorShift = (value: string, bits: number) =>
      onCuda ? xorShiftByTable(value, bits, onnx) : onnx.op("BitwiseXor", [value, shift(value, bits)]);
    const scramble = (value: string) => {
      // The finaliser of MurmurHash3: every input bit changes every output bit with probability near one half.
      let x = value;
      for (const [bits, factor] of [
        [16, 0x85ebca6b],
        [13, 0xc2b2ae35],
      ] as const) {
        x = onnx.op("Mul", [xorShift(x, bits), u32(factor)]);
      }
      return xorShift(x, 16);
    };
    const key = scramble(
      onnx.op("Add", [onnx.op("Mul", [seed!, u32(0x9e3779b1)]), u32(Math.imul(salt + 1, 0x85ebca77))]),
    );
    const limit = onnx.op("Squeeze", [onnx.dim(productOf(shape)), onnx.ints([0])]);
    const counter = onnx.op(
      "Cast",
      [onnx.op("Range", [onnx.scalar("int64", 0), limit, onnx.scalar("int64", 1)])],
      {
        to: onnxDataType("uint32"),
      },
    );
    const bits = scramble(onnx.op("Add", [onnx.op("Mul", [counter, u32(0x9e3779b1)]), key]));
    const fraction = onnx.op("Cast", [shift(bits, 8)], { to: onnxDataType("float32") });
    return onnx.op("Reshape", [
      onnx.op("Mul", [fraction, onnx.scalar("float32", 2 ** -24)]),
      onnx.shape(shape),
    ]);
  },
});

/**
 * Random numbers inside a program, a pure function of a seed given at run time: the same seed gives the same numbers, in
 * any process, so that a resumed run repeats what an uninterrupted one would have drawn.
 */
export class RandomStream {
  private draws = 0;

  /** @param seed uint32 scalar; training passes another one with every step */
  constructor(readonly seed: Tensor) {}

  /** Uniform in [0, 1), in steps of 2^-24. Every call draws new numbers. */
  uniform(shape: Shape): Tensor {
    return randomUniformOp([this.seed], { salt: this.draws++, shape });
  }

  /** Standard normal, by the Box-Muller transform. */
  normal(shape: Shape): Tensor {
    const radius = sqrt(mul(log(sub(1, this.uniform(shape))), -2));
    return mul(radius, cos(mul(this.uniform(shape), 2 * Math.PI)));
  }

  /** 1 with probability `probability`, else 0. */
  bernoulli(shape: Shape, probability: number, dtype: DType = "float32"): Tensor {
    return cast(greaterEqual(probability, add(this.uniform(shape), 2 ** -25)), dtype);
  }
}

/**
 * Sets each element to zero with probability `probability` and scales the rest by `1 / (1 - probability)`,
 * Srivastava et al. 2014. Without a stream (evaluation) or with probability 0 it is the identity.
 */
export function dropout(x: Tensor, probability: number, random: RandomStream | undefined): Tensor {
  if (!(probability >= 0 && probability < 1)) {
    throw new LineageError(
      "argument",
      `dropout: the probability ${probability} for ${formatShape(x.shape)} must lie in [0, 1)`,
    );
  }
  if (probability === 0 || !random) return x;
  return div(mul(x, random.bernoulli(x.shape, 1 - probability, x.dtype)), 1 - probability);
}
