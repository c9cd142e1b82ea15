import { Command } from "commander";
import { LineageError } from "../base/errors.js";
import { either } from "../base/check.js";
import { input } from "../graph/index.js";
import { dataFileOf, saveOnnx } from "../formats/index.js";
import {
  type OnnxDtype,
  exportEncoderDecoderForTransformersJs,
  exportForTransformersJs,
  holdsReader,
  kindIn,
  loadModel,
  onnxDtypes,
  onnxFileOf,
} from "../checkpoints/index.js";
import { exportEncoder, saveEncoderOnnx } from "../library/leave.js";
import { createRuntime } from "../runtime/index.js";
import { describeEncoders, encoderProblems, refuseProblems } from "./comparison.js";
import { modelFor } from "./model.js";
import { examples, option, requiredOption } from "./options.js";
import { tell } from "./terminal.js";

interface ExportCommand {
  readonly model: string;
  readonly out: string;
  readonly dtype?: string;
}

/** Writes a checkpoint as ONNX: a folder for transformers.js, or the forward pass alone as one file. */
async function exportOnnx({ model: source, out, dtype }: ExportCommand): Promise<void> {
  const dtypes = dtype === undefined ? undefined : dtypesOf(dtype);
  if (dtypes && out.endsWith(".onnx"))
    throw new LineageError("argument", "--dtype is for a folder; one .onnx file has 32-bit floats");
  const place = await modelFor(source);
  const runtime = createRuntime();
  const kind = await kindIn(place);
  if (kind === "encoder-decoder") {
    if (out.endsWith(".onnx"))
      throw new LineageError(
        "argument",
        `${source} holds an encoder-decoder, which is two programs with a cache between them; name a folder, not ${out}`,
      );
    await exportEncoderDecoderForTransformersJs(out, await loadModel(runtime, place, { kind }), dtypes);
    tell(`wrote ${out} for transformers.js\n`);
    return;
  }
  if (await holdsReader(place)) {
    const compared = out.endsWith(".onnx")
      ? new Map([[out, ["fp32", await saveEncoderOnnx(runtime, place, out)] as const]])
      : new Map(
          [...(await exportEncoder(runtime, place, out, dtypes))].map(
            ([name, comparison]) => [onnxFileOf(out, name), [name, comparison] as const] as const,
          ),
        );
    for (const [file, [name, comparison]] of compared) {
      tell(`${describeEncoders(comparison, place, file)}\n`);
      refuseProblems(encoderProblems(comparison, name), place, file);
    }
    return;
  }
  const loaded = await loadModel(runtime, place, { kind: "decoder" });
  if (!out.endsWith(".onnx")) {
    await exportForTransformersJs(out, loaded, dtypes);
    tell(`wrote ${out} for transformers.js\n`);
    return;
  }
  const { model, weights } = loaded;
  const inputIds = input("inputIds", "int64", ["batch", "sequence"]);
  await saveOnnx(out, { logits: model.forward(inputIds) }, { name: loaded.system.title, weights });
  tell(`wrote ${out} and ${dataFileOf(out)}\n`);
}

/** `fp32,q8` as a list. Throws `argument` for another word. */
function dtypesOf(text: string): OnnxDtype[] {
  return text.split(",").map((word) => {
    const dtype = onnxDtypes.find((one) => one === word.trim());
    if (dtype) return dtype;
    throw new LineageError(
      "argument",
      `--dtype must be ${either(onnxDtypes)}, or several with commas between, not ${word}`,
    );
  });
}

export const exportCommand = new Command("export")
  .description("write a model as ONNX, for transformers.js or for any ONNX engine")
  .addOption(requiredOption("model", "<place>", "a folder, a .gguf file, or ORG/NAME on the hub"))
  .addOption(
    requiredOption(
      "out",
      "<path>",
      "a folder for transformers.js (decoder with cache, encoder with its head, or encoder-decoder; configuration, " +
        "tokenizer), " +
        "or a file ending in .onnx (a decoder's inputIds [batch, sequence] -> logits, or an encoder; weights in .onnx_data beside it)",
    ),
  )
  .addOption(
    option(
      "dtype",
      "<names>",
      `how a folder keeps matrices, a file for each: ${either(onnxDtypes)}, or several with commas between`,
      undefined,
      { usual: "fp32; fp32,q8 where there is an encoder" },
    ),
  )
  .addHelpText(
    "after",
    examples(
      ["lineage export --model runs/mine --out mine-onnx", "for transformers.js"],
      ["lineage export --model runs/mine --out mine-onnx --dtype q4", "in 4 bits"],
      ["lineage export --model all-MiniLM-L6-v2 --out vectors", "an encoder, for Node and for a page"],
      ["lineage export --model runs/mine --out mine.onnx", "for any ONNX engine"],
    ),
  )
  .action(exportOnnx);
