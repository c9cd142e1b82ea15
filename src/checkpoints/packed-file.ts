import { z } from "zod";
import { type DType, type TypedArray, bytesPerElement } from "../base/dtype.js";
import { FormatError, LineageError } from "../base/errors.js";
import { type DoubleScaleTensors, type QuantizedWeight, isDouble, packedParts } from "../graph/index.js";
import type { SafetensorsFile, TensorToSave } from "../formats/index.js";
import {
  type MatrixLayout,
  blockShapes,
  blockSizes,
  dynamicBlock,
  rowWeight,
  signedValues,
} from "../quantization/index.js";
import type { DeviceTensor, FileMapping, Runtime } from "../runtime/types.js";

const blockSize = z.int().refine((size) => blockSizes.includes(size), {
  error: `must be one of ${blockSizes.join(", ")}`,
});

/** Packed weights in safetensors files: the tensors of each under its name, and an entry that says how it is packed. */
export const packedEntry = z.discriminatedUnion("kind", [
  z.object({
    kind: z.literal("blocks"),
    bits: z.union([z.literal(4), z.literal(8)]),
    block_size: blockSize,
    zero_points: z.boolean().default(false),
    offsets: z.boolean().default(false),
  }),
  z.object({ kind: z.literal("rows") }),
  z.object({ kind: z.literal("nf4"), block_size: blockSize, double: z.boolean().default(false) }),
]);
export type PackedEntry = z.infer<typeof packedEntry>;

export function entryOf(weight: QuantizedWeight): PackedEntry {
  if (weight.kind === "rows") return { kind: "rows" };
  if (weight.kind === "nf4")
    return { kind: "nf4", block_size: weight.blockSize, double: isDouble(weight.scales) };
  return {
    kind: "blocks",
    bits: weight.bits,
    block_size: weight.blockSize,
    zero_points: weight.zeroPoints !== undefined,
    offsets: weight.offsets !== undefined,
  };
}

/** A tensor as a file holds it. */
export const storedPart = (name: string, tensor: DeviceTensor): TensorToSave => ({
  name,
  dtype: tensor.dtype,
  shape: tensor.shape,
  bytes: bytesOf(tensor.contents()),
});

const bytesOf = ({ buffer, byteOffset, byteLength }: TypedArray): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** The tensors of a packed weight as a file holds them. */
export const partsOf = (name: string, weight: QuantizedWeight): TensorToSave[] =>
  Object.entries(packedParts(weight)).flatMap(([part, tensor]) => {
    if (part === "table") return [];
    const stored = storedPart(`${name}.${part}`, tensor);
    // Unsigned numbers are this device's matter, not the file's.
    return weight.kind === "rows" && part === "values"
      ? [{ ...stored, dtype: "int8", bytes: bytesOf(signedValues(weight)) }]
      : [stored];
  });

/**
 * Tensors in the order in which a file holds them. Floats come first: each tensor then lies at a multiple of its element's
 * size, so that it can be mapped. Parts of one kind follow each other, so that the engine can take several matrices as one.
 */
export function inPackedOrder(parts: readonly TensorToSave[]): TensorToSave[] {
  const kindOf = ({ name }: TensorToSave): string => name.slice(name.lastIndexOf(".") + 1);
  return [...parts].sort(
    (a, b) =>
      bytesPerElement(b.dtype) - bytesPerElement(a.dtype) ||
      (kindOf(a) < kindOf(b) ? -1 : Number(kindOf(a) > kindOf(b))),
  );
}

/** Gives a part of a weight. Throws where the file has no such part. */
export type PartReader = <D extends "uint8" | "int8" | "float32">(
  part: string,
  dtype: D,
  shape: readonly number[],
) => DeviceTensor<D>;

/** A tensor of a file, in the file's memory. Throws FormatError where it is another one than expected. */
export function mappedPart<D extends DType>(
  file: SafetensorsFile,
  mapping: FileMapping,
  name: string,
  dtype: D,
  shape: readonly number[],
): DeviceTensor<D> {
  const found = file.header.tensors.get(name);
  if (!found) throw new FormatError(file.path, `there is no tensor ${name}`);
  if (found.dtype !== dtype || found.shape.join() !== shape.join())
    throw new FormatError(
      file.path,
      `${name} is ${found.dtype} [${found.shape.join(", ")}], but the configuration makes it ${dtype} [${shape.join(", ")}]`,
    );
  return mapping.tensor(dtype, shape, found.byteOffset);
}

/** The weight that an entry describes, over the tensors that `part` gives. */
export async function weightFromParts(
  runtime: Runtime,
  name: string,
  entry: PackedEntry,
  layout: MatrixLayout,
  part: PartReader,
): Promise<QuantizedWeight> {
  const { rows, columns } = layout;
  if (entry.kind === "rows")
    return rowWeight(
      runtime,
      { values: part("values", "int8", [columns, rows]), scales: part("scales", "float32", [rows]) },
      layout,
    );
  const { block_size: blockSize } = entry;
  if (columns % blockSize !== 0)
    throw new LineageError(
      "checkpoint",
      `blocks of ${blockSize} do not divide the rows of ${name}, ${columns} long`,
    );
  if (entry.kind === "nf4")
    return {
      kind: "nf4",
      ...layout,
      blockSize,
      values: part("values", "uint8", [(rows * columns) / 2]),
      scales: entry.double
        ? doubleScales((rows * columns) / blockSize, part)
        : part("scales", "float32", [(rows * columns) / blockSize]),
    };
  const { bits } = entry;
  const shapes = blockShapes({ rows, columns, bits, blockSize });
  const values = part("values", "uint8", shapes.values);
  return {
    kind: "blocks",
    ...layout,
    bits,
    blockSize,
    values,
    table: values.slice(0, shapes.table),
    scales: part("scales", "float32", shapes.scales),
    zeroPoints: entry.zero_points ? part("zeroPoints", "uint8", shapes.zeroPoints) : undefined,
    offsets: entry.offsets ? part("offsets", "float32", shapes.offsets) : undefined,
  };
}

function doubleScales(count: number, part: PartReader): DoubleScaleTensors {
  const blocks = Math.ceil(count / dynamicBlock);
  return {
    codes: part("codes", "uint8", [blocks * dynamicBlock]),
    largest: part("largest", "float32", [blocks]),
    offset: part("offset", "float32", [1]),
  };
}
