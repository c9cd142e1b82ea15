import { Command } from "commander";
import { input } from "../graph/index.js";
import { dataFileOf, saveOnnx } from "../formats/index.js";
import { exportForTransformersJs, loadModel } from "../checkpoints/index.js";
import { createRuntime } from "../runtime/index.js";
import { modelFor } from "./model.js";
import { examples } from "./options.js";
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
  .description("write a checkpoint as ONNX, for transformers.js or for any ONNX engine")
  .requiredOption("--model <place>", "what train wrote, a folder of Hugging Face, or a hub's ORG/NAME")
  .requiredOption(
    "--out <path>",
    "a folder: the decoder with its cache, configuration and tokenizer, as transformers.js loads them; " +
      "or a file ending in .onnx: inputIds [batch, sequence] -> logits, large tensors in .onnx_data beside it",
  )
  .addHelpText(
    "after",
    examples(
      ["lineage export --model runs/mine --out mine-onnx", "for transformers.js"],
      ["lineage export --model runs/mine --out mine.onnx", "for any ONNX engine"],
    ),
  )
  .action(exportOnnx);
