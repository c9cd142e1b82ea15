import type { Program, ProgramOptions, Runtime } from "../runtime/types.js";
import { type LowerOptions, toOnnx } from "./lower.js";
import type { Tensor } from "./tensor.js";

/** Writes the program that computes `outputs` and compiles it for the runtime's device. */
export function compile(
  runtime: Runtime,
  outputs: Readonly<Record<string, Tensor>>,
  { fused, ...options }: LowerOptions & ProgramOptions = {},
): Promise<Program> {
  return runtime.createProgram(toOnnx(outputs, { name: options.name, fused }), options);
}
