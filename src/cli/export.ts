import { Command } from "commander";
import { input } from "../graph/index.js";
import { saveOnnx } from "../io/index.js";
import { loadModel } from "../models/index.js";
import { createRuntime } from "../runtime/index.js";
import { examples } from "./options.js";

/** Writes a checkpoint's forward pass as ONNX. */
async function exportOnnx({ checkpoint, out }: { checkpoint: string; out: string }): Promise<void> {
  const { model, weights } = await loadModel(createRuntime(), checkpoint);
  const inputIds = input("inputIds", "int64", ["batch", "sequence"]);
  await saveOnnx(out, { logits: model.forward(inputIds) }, { name: model.constructor.name, weights });
  process.stderr.write(`wrote ${out} and ${out}.data\n`);
}

export const exportCommand = new Command("export")
  .description("write a checkpoint as an ONNX model: inputIds [batch, sequence] -> logits")
  .requiredOption("--checkpoint <folder>", "what train wrote")
  .requiredOption("--out <file>", "model.onnx; large tensors go to model.onnx.data beside it")
  .addHelpText(
    "after",
    examples(["lineage export --checkpoint runs/mine --out mine.onnx", "for any ONNX engine"]),
  )
  .action(exportOnnx);
