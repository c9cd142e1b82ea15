import { Command } from "commander";
import { input } from "../graph/index.js";
import { dataFileOf, saveOnnx } from "../formats/index.js";
import { exportForTransformersJs, loadModel } from "../checkpoints/index.js";
import { createRuntime } from "../runtime/index.js";
import { modelFor } from "./model.js";
import { examples, requiredOption } from "./options.js";
import { tell } from "./terminal.js";

/** Writes a checkpoint as ONNX: a folder for transformers.js, or the forward pass alone as one file. */
async function exportOnnx({ model: place, out }: { model: string; out: string }): Promise<void> {
  const loaded = await loadModel(createRuntime(), await modelFor(place), { kind: "decoder" });
  if (!out.endsWith(".onnx")) {
    await exportForTransformersJs(out, loaded);
    tell(`wrote ${out} for transformers.js\n`);
    return;
  }
  const { model, weights } = loaded;
  const inputIds = input("inputIds", "int64", ["batch", "sequence"]);
  await saveOnnx(out, { logits: model.forward(inputIds) }, { name: loaded.system.title, weights });
  tell(`wrote ${out} and ${dataFileOf(out)}\n`);
}

export const exportCommand = new Command("export")
  .description("write a decoder as ONNX, for transformers.js or for any ONNX engine")
  .addOption(requiredOption("model", "<place>", "a decoder: folder, .gguf file, or ORG/NAME on the hub"))
  .addOption(
    requiredOption(
      "out",
      "<path>",
      "a folder for transformers.js (decoder with cache, configuration, tokenizer), " +
        "or a file ending in .onnx (inputIds [batch, sequence] -> logits; weights in .onnx_data beside it)",
    ),
  )
  .addHelpText(
    "after",
    examples(
      ["lineage export --model runs/mine --out mine-onnx", "for transformers.js"],
      ["lineage export --model runs/mine --out mine.onnx", "for any ONNX engine"],
    ),
  )
  .action(exportOnnx);
