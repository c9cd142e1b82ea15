import { Command } from "commander";
import { z } from "zod";
import { formatBytes } from "../base/memory.js";
import { holdsReader, kindIn, loadForInference, saveModel } from "../checkpoints/index.js";
import type { QuantizationScheme } from "../quantization/index.js";
import { type QuantizedEncoder, quantizeEncoderFolder } from "../library/leave.js";
import { createRuntime } from "../runtime/index.js";
import type { Runtime } from "../runtime/types.js";
import { describeEncoders, encoderProblems, refuseProblems } from "./comparison.js";
import { modelFor } from "./model.js";
import { countOption, examples, option, threadsOption, requiredOption } from "./options.js";
import { print } from "./terminal.js";

/** What `--quantize` takes: whole numbers, or NormalFloat, whose scales may be kept in 8 bits. */
export const quantizedBits = z.enum(["4", "8", "nf4", "nf4-double"]);
export type QuantizedBits = z.infer<typeof quantizedBits>;

export function schemeOf(
  bits: QuantizedBits | undefined,
  rest: Omit<QuantizationScheme, "bits"> = {},
): QuantizationScheme | undefined {
  if (bits === "nf4-double") return { ...rest, bits: "nf4", double: true };
  return bits && { ...rest, bits: bits === "nf4" ? bits : bits === "4" ? 4 : 8 };
}

export const fastPromptsHelp =
  "read prompts about twice as fast with a second copy of the matrices in 8 bits (one more byte a weight); needs a processor with VNNI";

interface QuantizeCommand {
  readonly model: string;
  readonly out: string;
  readonly bits?: QuantizedBits;
  readonly blockSize?: number | "row";
  readonly symmetric?: boolean;
  readonly candidates: number;
  readonly threads?: number;
  readonly json?: boolean;
}

async function quantize(command: QuantizeCommand): Promise<void> {
  const { model, out, blockSize, symmetric, candidates, threads, json } = command;
  const started = performance.now();
  const place = await modelFor(model);
  const kind = await kindIn(place);
  const reads = await holdsReader(place);
  const bits = command.bits ?? (reads ? "8" : "4");
  const scheme = schemeOf(bits, { blockSize, symmetric, candidates })!;
  const runtime = createRuntime({ threads });
  const made =
    kind === "encoder" || reads
      ? await quantizeEncoderFolder(runtime, place, out, scheme)
      : await quantizeWriter(runtime, place, kind, out, scheme);
  const seconds = (performance.now() - started) / 1000;
  const { comparison, byteLength, packed, inFull } = made;
  const problems = comparison && encoderProblems(comparison, bits);
  if (json)
    print(`${JSON.stringify({ out, bits, byteLength, packed, inFull, seconds, ...comparison, problems })}\n`);
  else {
    print(
      `${out}: ${formatBytes(byteLength)}, ${packed} matrices quantised, ${inFull} tensors in full precision, in ${seconds.toFixed(1)} s\n`,
    );
    if (comparison) print(`${describeEncoders(comparison, place, out)}\n`);
  }
  if (problems) refuseProblems(problems, place, out);
}

/** A model that writes: a decoder or an encoder-decoder. */
async function quantizeWriter(
  runtime: Runtime,
  place: string,
  kind: "decoder" | "encoder-decoder",
  out: string,
  scheme: QuantizationScheme,
): Promise<Omit<QuantizedEncoder, "comparison"> & { readonly comparison?: undefined }> {
  const loaded = await loadForInference(runtime, place, { kind, quantize: scheme });
  await saveModel(out, loaded);
  const { byteLength, constants } = loaded.weights;
  return {
    byteLength,
    packed: Object.keys(constants.packed).length,
    inFull: Object.keys(constants.tensors).length,
  };
}

export const quantizeCommand = new Command("quantize")
  .description(
    "write a model with matrices in 4 or 8 bits: a decoder for generate and chat, an encoder-decoder for transform, an encoder for embed, search, predict and fill-mask",
  )
  .addOption(requiredOption("model", "<place>", "a folder, a .gguf file, or ORG/NAME on the hub"))
  .addOption(requiredOption("out", "<folder>", "folder of the result"))
  .addOption(
    option("bits", "<bits>", "bits of a weight; nf4 is 4-bit NormalFloat", quantizedBits, {
      usual: "4; an encoder 8",
    }),
  )
  .addOption(
    option(
      "blockSize",
      "<n>",
      "columns that share a scale: 16 to 256; with 8 bits also row",
      z.union([z.literal("row"), z.int().min(16).max(256)]),
      { usual: "32; nf4 64" },
    ),
  )
  .option("--symmetric", "no zero points: each block is centred on 0 (default: with zero points)")
  .addOption(countOption("candidates", "scales tried for each block; more is slower and more exact", 16))
  .addOption(threadsOption())
  .option("--json", "one JSON object")
  .addHelpText(
    "after",
    examples(
      ["lineage quantize --model runs/mine --out runs/mine-4", "4 bits in blocks of 32"],
      ["lineage quantize --model big --bits 4 --block-size 128 --out big-4", "the fastest to decode"],
      ["lineage quantize --model model.gguf --bits 8 --out model-8", "from a GGUF"],
      ["lineage quantize --model big --bits 8 --block-size row --out big-8", "reads prompts fastest"],
      ["lineage quantize --model runs/de-en --bits 8 --out de-en-8", "a translator, for transform"],
      ["lineage quantize --model all-MiniLM-L6-v2 --out minilm-8", "an encoder, compared with its source"],
    ),
  )
  .action(quantize);
