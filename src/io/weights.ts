import { existsSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { type DType, viewOf } from "../base/dtype.js";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson } from "../base/files.js";
import { type Module, Weights } from "../nn/index.js";
import type { Runtime } from "../runtime/types.js";
import { SafetensorsFile, type TensorToSave, writeSafetensors } from "./safetensors.js";

/** A buffer's tensors as they go into a file; `prefix` keeps moments and weights of one file apart. */
export const tensorsToSave = (weights: Weights, prefix = ""): TensorToSave[] =>
  Object.entries(weights.tensors).map(([name, tensor]) => {
    const view = tensor.view();
    const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    return { name: prefix + name, dtype: "float32", shape: tensor.shape, bytes };
  });

/** Writes a model's weights under their published names. */
export const saveWeights = (file: string, weights: Weights): Promise<void> =>
  writeSafetensors(file, tensorsToSave(weights));

/** The float32 values of other floating dtypes; every 16-bit value has one exactly. */
const widen: Partial<Record<DType, (bits: Uint16Array, target: Float32Array) => void>> = {
  bfloat16: (bits, target) => {
    const words = new Uint32Array(target.buffer, target.byteOffset, target.length);
    bits.forEach((value, index) => (words[index] = value << 16));
  },
  float16: (bits, target) => {
    bits.forEach((value, index) => {
      const [exponent, fraction] = [(value >> 10) & 31, value & 1023];
      const size =
        exponent === 31
          ? fraction === 0
            ? Infinity
            : NaN
          : exponent === 0
            ? fraction * 2 ** -24
            : (1 + fraction / 1024) * 2 ** (exponent - 15);
      target[index] = value & 0x8000 ? -size : size;
    });
  },
};

/**
 * Fills `weights` from files that share the tensors out. Throws `checkpoint` naming the first tensor that is missing, has
 * another shape or a dtype that is none of float32, float16 and bfloat16.
 */
export async function readWeights(
  files: readonly SafetensorsFile[],
  weights: Weights,
  prefix = "",
): Promise<void> {
  for (const [name, tensor] of Object.entries(weights.tensors)) {
    const found = findTensor(files, prefix + name);
    if (!found) {
      const where = files.map((file) => file.path).join(", ");
      throw new LineageError("checkpoint", `${where} has no tensor ${prefix + name}, which the model needs`);
    }
    const { file, stored } = found;
    const entry = file.header.tensors.get(stored)!;
    const convert = widen[entry.dtype];
    if ((entry.dtype !== "float32" && !convert) || entry.shape.join() !== tensor.shape.join()) {
      throw new LineageError(
        "checkpoint",
        `${file.path}: ${stored} is ${entry.dtype} [${entry.shape.join(", ")}], but the configuration makes it float32 [${tensor.shape.join(", ")}]`,
      );
    }
    const view = tensor.view();
    if (convert) {
      const bytes = new Uint8Array(entry.byteLength);
      await file.readInto(stored, bytes);
      convert(viewOf("float16", bytes.buffer, 0, tensor.size), view);
    } else {
      await file.readInto(stored, new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
    }
  }
}

function findTensor(
  files: readonly SafetensorsFile[],
  name: string,
): { file: SafetensorsFile; stored: string } | undefined {
  // OpenAI's own GPT-2 files leave the `transformer.` out.
  for (const stored of [name, name.replace(/^transformer\./, "")]) {
    const file = files.find(({ header }) => header.tensors.has(stored));
    if (file) return { file, stored };
  }
  return undefined;
}

const indexSchema = z.object({ weight_map: z.record(z.string(), z.string()) });

/** The weight files of a checkpoint folder: `model.safetensors`, or the shards that its index names. Throws for a missing one. */
export async function openWeightFiles(folder: string): Promise<SafetensorsFile[]> {
  const single = path.join(folder, "model.safetensors");
  if (existsSync(single)) return [await SafetensorsFile.open(single)];
  const index = `${single}.index.json`;
  if (!existsSync(index)) {
    throw new LineageError(
      "checkpoint",
      `${folder} is not a checkpoint: it has no model.safetensors, nor an index of shards`,
    );
  }
  const parsed = indexSchema.safeParse(await readJson(index));
  if (!parsed.success)
    throw new FormatError(index, "it must have a weight_map from tensor names to file names");
  const names = [...new Set(Object.values(parsed.data.weight_map))];
  for (const name of names) {
    if (name !== path.basename(name))
      throw new FormatError(index, `the shard ${JSON.stringify(name)} must be a file of the same folder`);
    if (!existsSync(path.join(folder, name)))
      throw new LineageError("checkpoint", `${folder} has no ${name}, a shard that its index names`);
  }
  return Promise.all(names.map((name) => SafetensorsFile.open(path.join(folder, name))));
}

/** A model's weights from a checkpoint folder. */
export async function loadWeights(runtime: Runtime, model: Module, folder: string): Promise<Weights> {
  const files = await openWeightFiles(folder);
  const weights = Weights.allocate(runtime, model);
  try {
    await readWeights(files, weights);
    return weights;
  } catch (error) {
    weights.dispose();
    throw error;
  }
}
