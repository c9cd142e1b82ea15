import { Random } from "../../src/base/random.js";
import { type Tensor, compile, gradients, input, mul, constant, sum } from "../../src/graph/index.js";
import { createRuntime } from "../../src/runtime/index.js";

export const runtime = createRuntime();

/** The values of `outputs` for float64 inputs given as flat arrays. */
export async function evaluate(
  outputs: Record<string, Tensor>,
  inputs: Record<string, { shape: number[]; data: Float64Array }>,
  fused = true,
): Promise<Record<string, Float64Array>> {
  using program = await compile(runtime, outputs, { fused });
  const tensors = Object.fromEntries(
    program.inputs.map(({ name }) => [
      name,
      runtime.createTensor("float64", inputs[name]!.shape, inputs[name]!.data),
    ]),
  );
  const results = await program.run(tensors);
  const values: Record<string, Float64Array> = {};
  for (const [name, tensor] of Object.entries(results)) {
    values[name] = Float64Array.from((await tensor.read()) as Float64Array);
    tensor.dispose();
  }
  for (const tensor of Object.values(tensors)) tensor.dispose();
  return values;
}

/**
 * The largest difference between the derivative rules and central differences in float64, relative to the size of the
 * gradient, for `sum(build(...) * cotangent)` with a random cotangent.
 */
export async function gradientError(
  build: (...inputs: Tensor[]) => Tensor,
  shapes: number[][],
  { seed = 1, low = -2, high = 2 } = {},
): Promise<number> {
  const random = new Random(seed);
  const draw = (count: number) =>
    Float64Array.from({ length: count }, () => low + (high - low) * random.uniform());
  const tensors = shapes.map((shape, index) => input(`x${index}`, "float64", shape));
  const output = build(...tensors);
  const shape = output.shape as number[];
  const cotangent = constant("float64", shape, draw(shape.reduce((a, b) => a * b, 1)));
  const loss = sum(mul(output, cotangent));
  const given = Object.fromEntries(
    shapes.map((dims, index) => [`x${index}`, { shape: dims, data: draw(dims.reduce((a, b) => a * b, 1)) }]),
  );
  const grads = gradients(loss, tensors);
  const exact = await evaluate(
    Object.fromEntries(grads.map((gradient, index) => [`g${index}`, gradient])),
    given,
  );
  using program = await compile(runtime, { loss });
  const native = Object.fromEntries(
    program.inputs.map(({ name }) => [
      name,
      runtime.createTensor("float64", given[name]!.shape, given[name]!.data),
    ]),
  );
  using result = runtime.createTensor("float64", []);
  using binding = program.bind(native, { loss: result });
  let worst = 0;
  for (const [index] of shapes.entries()) {
    const memory = native[`x${index}`]?.view() as Float64Array | undefined;
    if (!memory) continue;
    const scale = Math.max(1, ...exact[`g${index}`]!.map(Math.abs));
    for (let i = 0; i < memory.length; i++) {
      const value = memory[i]!;
      const step = 1e-5;
      memory[i] = value + step;
      binding.runSync();
      const above = result.view()[0]!;
      memory[i] = value - step;
      binding.runSync();
      const below = result.view()[0]!;
      memory[i] = value;
      worst = Math.max(worst, Math.abs((above - below) / (2 * step) - exact[`g${index}`]![i]!) / scale);
    }
  }
  for (const tensor of Object.values(native)) tensor.dispose();
  return worst;
}
