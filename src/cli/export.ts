import { input } from "../graph/index.js";
import { saveOnnx } from "../io/index.js";
import { loadModel } from "../models/index.js";
import { createRuntime } from "../runtime/index.js";

/** Writes a checkpoint's forward pass as ONNX. */
export async function exportOnnx({ checkpoint, out }: { checkpoint: string; out: string }): Promise<void> {
  const { model, weights } = await loadModel(createRuntime(), checkpoint);
  const inputIds = input("inputIds", "int64", ["batch", "sequence"]);
  await saveOnnx(out, { logits: model.forward(inputIds) }, { name: "gpt2", weights });
  process.stderr.write(`wrote ${out} and ${out}.data\n`);
}
