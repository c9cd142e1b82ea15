import { LineageError } from "../base/errors.js";
import type { Runtime } from "../runtime/types.js";
import { toOnnx } from "./lower.js";
import { gelu, softmax } from "./ops/activation.js";
import { add } from "./ops/elementwise.js";
import { gather } from "./ops/indexing.js";
import { input } from "./ops/leaf.js";
import { linear, matmul } from "./ops/matmul.js";
import { layerNorm, rmsNorm } from "./ops/norm.js";
import { sum } from "./ops/reduce.js";
import type { Tensor } from "./tensor.js";

const [rows, size] = [5, 32];
/** Of the largest value: wide enough for another order of additions, far too narrow for a kernel that is wrong. */
const tolerance = 1e-3;

const verified = new WeakMap<Runtime, Promise<void>>();

/**
 * Runs what models are made of on the runtime's device and on the CPU, once for each runtime, and compares. A driver that
 * computes something else would otherwise be noticed by nobody. Throws `unsupported` where the two differ.
 */
export function verifyDevice(runtime: Runtime): Promise<void> {
  if (runtime.device === runtime.cpu.device) return Promise.resolve();
  let result = verified.get(runtime);
  if (!result) {
    result = compare(runtime);
    verified.set(runtime, result);
  }
  return result;
}

async function compare(runtime: Runtime): Promise<void> {
  const outputs = probes();
  const [own, expected] = [await evaluate(runtime, outputs), await evaluate(runtime.cpu, outputs)];
  for (const [name, values] of Object.entries(expected)) {
    const scale = Math.max(...values.map(Math.abs));
    const error = Math.max(...values.map((value, index) => Math.abs(value - own[name]![index]!)));
    if (!(error <= tolerance * scale)) {
      throw new LineageError(
        "unsupported",
        `the device ${runtime.device} computes ${name} wrongly: it differs from the CPU by ${error.toPrecision(2)}, ` +
          `where values reach ${scale.toPrecision(2)}; update its driver, or use the device cpu`,
      );
    }
  }
}

function probes(): Record<string, Tensor> {
  const x = input("x", "float32", [rows, size]);
  const w = input("w", "float32", [size, size]);
  const b = input("b", "float32", [size]);
  const ids = input("ids", "int64", [rows]);
  return {
    product: matmul(x, w),
    "product transposed": matmul(x, w, { transposeB: true }),
    linear: linear(x, w, b),
    softmax: softmax(x),
    gelu: gelu(x, "tanh"),
    "layer norm": layerNorm(x, b, b),
    "RMS norm": rmsNorm(x, b),
    "look-up": gather(w, ids),
    sum: sum(add(x, b), { axes: 0 }),
  };
}

async function evaluate(
  runtime: Runtime,
  outputs: Readonly<Record<string, Tensor>>,
): Promise<Record<string, Float32Array>> {
  const numbers = (count: number, phase: number) =>
    Float32Array.from({ length: count }, (_, index) => Math.sin(1.7 * index + phase));
  using program = await runtime.createProgram(toOnnx(outputs, { name: "probe", device: runtime.device }), {
    name: "probe",
  });
  using x = runtime.createTensor("float32", [rows, size], numbers(rows * size, 0));
  using w = runtime.createTensor("float32", [size, size], numbers(size * size, 1));
  using b = runtime.createTensor("float32", [size], numbers(size, 2));
  using ids = runtime.createTensor("int64", [rows], BigInt64Array.of(3n, 0n, 31n, 7n, 3n));
  const results = await program.run({ x, w, b, ids });
  const values: Record<string, Float32Array> = {};
  for (const [name, tensor] of Object.entries(results)) {
    values[name] = (await tensor.read()) as Float32Array;
    tensor.dispose();
  }
  return values;
}
