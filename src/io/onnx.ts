import path from "node:path";
import proto from "onnx-proto";
import { writeAtomically } from "../base/files.js";
import { type LowerOptions, type Tensor, lower } from "../graph/index.js";
import type { Weights } from "../nn/index.js";
import { encodeModel } from "../onnx/index.js";

/** Tensors from this size on lie in the data file, where the format has no 2 GB limit. */
const externalThreshold = 1024;
/** Offsets that a memory map can use. */
const alignment = 4096;

/** Where the large tensors of an ONNX file lie. */
export const dataFileOf = (file: string): string => `${file}_data`;

export interface SaveOnnxOptions extends LowerOptions {
  /** Values of inputs that become part of the model. */
  readonly weights?: Weights;
}

/**
 * Writes the program that computes `outputs` as `file`, and its large tensors as `file_data` beside it, the name that the
 * field's exporters give it: a model of any size for any engine with ONNX Runtime's operators.
 */
export async function saveOnnx(
  file: string,
  outputs: Readonly<Record<string, Tensor>>,
  { weights, ...options }: SaveOnnxOptions = {},
): Promise<void> {
  const initializers = Object.fromEntries(
    Object.entries(weights?.tensors ?? {}).map(([name, tensor]) => [name, tensor.view()]),
  );
  const model = lower(outputs, { ...options, initializers }).build();
  const location = path.basename(dataFileOf(file));
  const chunks: Uint8Array[] = [];
  let offset = 0;
  for (const tensor of model.graph!.initializer!) {
    const data = tensor.rawData;
    if (!data || data.byteLength < externalThreshold) continue;
    const padding = (alignment - (offset % alignment)) % alignment;
    chunks.push(new Uint8Array(padding), data);
    offset += padding;
    const entries = { location, offset, length: data.byteLength };
    tensor.externalData = Object.entries(entries).map(
      ([key, value]) => new proto.onnx.StringStringEntryProto({ key, value: String(value) }),
    );
    tensor.dataLocation = proto.onnx.TensorProto.DataLocation.EXTERNAL;
    tensor.rawData = new Uint8Array();
    offset += data.byteLength;
  }
  if (chunks.length > 0) await writeAtomically(dataFileOf(file), chunks);
  await writeAtomically(file, [encodeModel(model)]);
}
