import { encodeModel } from "../onnx/builder.js";
import type { DeviceTensor, Program, ProgramOptions, Runtime } from "../runtime/types.js";
import { checkOf } from "./limits.js";
import { type LowerOptions, lower } from "./lower.js";
import { constantTensors } from "./packed.js";
import { verifyDevice } from "./verify.js";
import type { Tensor } from "./tensor.js";

/** Writes the program that computes `outputs` and compiles it for the runtime's device. */
export async function compile(
  runtime: Runtime,
  outputs: Readonly<Record<string, Tensor>>,
  { fused, initializers, constants, ...options }: LowerOptions & ProgramOptions = {},
): Promise<Program> {
  await verifyDevice(runtime);
  const { builder, limits } = lower(outputs, { name: options.name, fused, initializers, constants });
  const weights: Record<string, DeviceTensor> = { ...options.weights };
  const shared = constants ? constantTensors(constants) : {};
  for (const name of builder.sharedNames) weights[name] = shared[name]!;
  return runtime.createProgram(encodeModel(builder.build()), {
    ...options,
    weights,
    checkSizes: checkOf(limits),
  });
}
