import path from "node:path";
import { create, fromBinary } from "@bufbuild/protobuf";
import { z } from "zod";
import { FormatError, LineageError, messageOf } from "../base/errors.js";
import { readBytes, writeAtomically } from "../base/files.js";
import { replaceFiles } from "../base/folders.js";
import { type LowerOptions, type Tensor, constantTensors, lower } from "../graph/index.js";
import type { WeightSet } from "../nn/index.js";
import {
  type ModelProto,
  ModelProtoSchema,
  StringStringEntryProtoSchema,
  TensorProto_DataLocation as DataLocation,
  encodeModel,
} from "../onnx/index.js";

/** Tensors from this size on lie in the data file, where the format has no 2 GB limit. */
const externalThreshold = 1024;
/** Offsets that a memory map can use. */
const alignment = 4096;

/** Where the large tensors of an ONNX file lie. */
export const dataFileOf = (file: string): string => `${file}_data`;

export interface SaveOnnxOptions extends LowerOptions {
  /** Values of inputs that become part of the model. */
  readonly weights?: WeightSet;
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
  const constants = weights?.constants;
  const tensors = { ...weights?.tensors, ...(constants && constantTensors(constants)) };
  const initializers = Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => [name, tensor.contents()]),
  );
  const model = lower(outputs, { ...options, initializers, constants }).builder.build();
  const location = path.basename(dataFileOf(file));
  const chunks: Uint8Array[] = [];
  let offset = 0;
  for (const tensor of model.graph!.initializer) {
    const data = tensor.rawData;
    if (data.byteLength < externalThreshold) continue;
    const padding = (alignment - (offset % alignment)) % alignment;
    chunks.push(new Uint8Array(padding), data);
    offset += padding;
    const entries = { location, offset, length: data.byteLength };
    tensor.externalData = Object.entries(entries).map(([key, value]) =>
      create(StringStringEntryProtoSchema, { key, value: String(value) }),
    );
    tensor.dataLocation = DataLocation.EXTERNAL;
    tensor.rawData = new Uint8Array();
    offset += data.byteLength;
  }
  await replaceFiles(
    path.dirname(file),
    async (staging) => {
      if (chunks.length > 0) await writeAtomically(path.join(staging, location), chunks);
      await writeAtomically(path.join(staging, path.basename(file)), [encodeModel(model)]);
    },
    { part: (name) => name === location },
  );
}

const dataEntry = z.object({
  location: z.string(),
  offset: z.coerce.number().int().min(0).default(0),
  length: z.coerce.number().int().min(0).optional(),
});

/**
 * Reads an ONNX model, its large tensors included where they lie in files beside it. Throws FormatError for a file that is
 * no ONNX, or that points outside of its folder or of its data.
 */
export async function readOnnx(file: string): Promise<ModelProto> {
  let model: ModelProto;
  try {
    model = fromBinary(ModelProtoSchema, await readBytes(file));
  } catch (error) {
    if (error instanceof LineageError) throw error;
    throw new FormatError(file, `this is not an ONNX model: ${messageOf(error)}`, { cause: error });
  }
  if (!model.graph?.node.length) throw new FormatError(file, "this is not an ONNX model: it has no graph");
  const files = new Map<string, Uint8Array>();
  for (const tensor of model.graph.initializer) {
    if (tensor.dataLocation !== DataLocation.EXTERNAL) continue;
    const parsed = dataEntry.safeParse(
      Object.fromEntries(tensor.externalData.map(({ key, value }) => [key, value])),
    );
    if (!parsed.success)
      throw new FormatError(file, `the tensor ${tensor.name} does not say where its data lie`);
    const { location, offset, length } = parsed.data;
    if (location !== path.basename(location) || /^\.{0,2}$|[\\\0]/.test(location))
      throw new FormatError(
        file,
        `the tensor ${tensor.name} lies in ${JSON.stringify(location)}, outside the folder`,
      );
    let data = files.get(location);
    if (!data) files.set(location, (data = await readBytes(path.join(path.dirname(file), location))));
    const end = length === undefined ? data.byteLength : offset + length;
    if (offset > end || end > data.byteLength)
      throw new FormatError(
        file,
        `the tensor ${tensor.name} lies at bytes ${offset} to ${end} of ${location}, which has ${data.byteLength}`,
      );
    tensor.rawData = data.subarray(offset, end);
    tensor.externalData = [];
    tensor.dataLocation = DataLocation.DEFAULT;
  }
  return model;
}
