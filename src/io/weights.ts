import { LineageError } from "../base/errors.js";
import { type Module, Weights } from "../nn/index.js";
import type { Runtime } from "../runtime/types.js";
import { SafetensorsFile, type TensorToSave, writeSafetensors } from "./safetensors.js";

/** A buffer's tensors as they go into a file; `prefix` keeps moments and weights of one file apart. */
export const tensorsToSave = (weights: Weights, prefix = ""): TensorToSave[] =>
  Object.entries(weights.tensors).map(([name, tensor]) => {
    const view = tensor.view();
    return {
      name: prefix + name,
      dtype: "float32",
      shape: tensor.shape,
      bytes: new Uint8Array(view.buffer, view.byteOffset, view.byteLength),
    };
  });

/** Writes a model's weights under their published names. */
export const saveWeights = (file: string, weights: Weights): Promise<void> =>
  writeSafetensors(file, tensorsToSave(weights));

/** Fills `weights` from a file. Throws `checkpoint` naming the first tensor that is missing or has another shape. */
export async function readWeights(file: SafetensorsFile, weights: Weights, prefix = ""): Promise<void> {
  for (const [name, tensor] of Object.entries(weights.tensors)) {
    const stored = findName(file, prefix + name);
    const entry = stored === undefined ? undefined : file.header.tensors.get(stored);
    if (stored === undefined || !entry)
      throw new LineageError(
        "checkpoint",
        `${file.path} has no tensor ${prefix + name}, which the model needs`,
      );
    if (entry.dtype !== "float32" || entry.shape.join() !== tensor.shape.join()) {
      throw new LineageError(
        "checkpoint",
        `${file.path}: ${stored} is ${entry.dtype} [${entry.shape.join(", ")}], but the configuration makes it float32 [${tensor.shape.join(", ")}]`,
      );
    }
    const view = tensor.view();
    await file.readInto(stored, new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
  }
}

/** OpenAI's own GPT-2 files leave the `transformer.` out. */
function findName({ header }: SafetensorsFile, name: string): string | undefined {
  return [name, name.replace(/^transformer\./, "")].find((candidate) => header.tensors.has(candidate));
}

/** A model's weights from a safetensors file. */
export async function loadWeights(runtime: Runtime, model: Module, path: string): Promise<Weights> {
  const file = await SafetensorsFile.open(path);
  const weights = Weights.allocate(runtime, model);
  try {
    await readWeights(file, weights);
    return weights;
  } catch (error) {
    weights.dispose();
    throw error;
  }
}
