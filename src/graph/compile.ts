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
  {
    fused,
    initializers,
    constants,
    given: inputs,
    exactProducts,
    device = runtime.device,
    ...options
  }: LowerOptions & ProgramOptions = {},
): Promise<Program> {
  await verifyDevice(runtime);
  const { builder, limits, joined } = lower(
    outputs,
    { name: options.name, fused, initializers, constants, given: inputs, exactProducts, device },
    true,
  );
  try {
    const given = { ...(constants && constantTensors(constants)), ...joined };
    const weights: Record<string, DeviceTensor> = { ...options.weights };
    for (const name of builder.sharedNames) weights[name] = given[name]!;
    const { locationInPlace } = runtime;
    const inPlace = locationInPlace === undefined ? undefined : builder.placeShared(locationInPlace);
    return await runtime.createProgram(encodeModel(builder.build()), {
      ...options,
      weights,
      inPlace,
      checkSizes: checkOf(limits),
    });
  } finally {
    // The program holds on to what it needs of them.
    for (const tensor of Object.values(joined)) tensor.dispose();
  }
}
