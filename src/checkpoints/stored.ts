import { elementCount } from "../base/dtype.js";
import { LineageError } from "../base/errors.js";
import { type TensorToSave, floatReaders } from "../formats/index.js";
import type { QuantizedWeight } from "../graph/index.js";
import type { WeightSet } from "../nn/index.js";
import { storedPart } from "./packed-file.js";

/** The values of a parameter, whether it learns or is frozen. Throws `argument` where there are none. */
export function storedWeight(
  { tensors, constants }: WeightSet,
  name: string,
): { readonly tensor: TensorToSave } | { readonly quantized: QuantizedWeight } {
  const packed = constants?.packed[name];
  const tensor = tensors[name] ?? (packed?.kind === "half" ? packed.values : constants?.tensors[name]);
  if (tensor) return { tensor: storedPart(name, tensor) };
  if (packed && packed.kind !== "half") return { quantized: packed };
  throw new LineageError(
    "argument",
    `the weights have no values for ${name}, so that the model cannot be saved`,
  );
}

/** The values of a parameter in full precision. Throws `unsupported` for a quantised one. */
export function fullValues(weights: WeightSet, name: string): Float32Array {
  const stored = storedWeight(weights, name);
  if ("quantized" in stored)
    throw new LineageError(
      "unsupported",
      `${name} is quantised, which a file in another format does not keep; save the original model`,
    );
  const { dtype, shape, bytes } = stored.tensor;
  const values = new Float32Array(elementCount(shape));
  floatReaders[dtype]!(bytes, values);
  return values;
}
