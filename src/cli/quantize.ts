import { Command } from "commander";
import { z } from "zod";
import { formatBytes } from "../base/memory.js";
import { loadForInference, saveModel } from "../checkpoints/index.js";
import type { QuantizationScheme } from "../quantization/index.js";
import { createRuntime } from "../runtime/index.js";
import { modelFor } from "./model.js";
import { countOption, examples, option, threadsOption, requiredOption } from "./options.js";
import { print } from "./terminal.js";

/** Bits as the command line has them. */
export type QuantizedBits = "4" | "8" | "nf4";

export function schemeOf(
  bits: QuantizedBits | undefined,
  rest: Omit<QuantizationScheme, "bits"> = {},
): QuantizationScheme | undefined {
  return bits && { ...rest, bits: bits === "nf4" ? bits : bits === "4" ? 4 : 8 };
}

export const fastPromptsHelp =
  "read prompts about twice as fast with a second copy of the matrices in 8 bits (one more byte a weight); needs a processor with VNNI";

interface QuantizeCommand {
  readonly model: string;
  readonly out: string;
  readonly bits: QuantizedBits;
  readonly blockSize?: number | "row";
  readonly symmetric?: boolean;
  readonly candidates: number;
  readonly threads?: number;
  readonly json?: boolean;
}

export const quantizeCommand = new Command("quantize")
  .description("write a model with matrices in 4 or 8 bits, for generate and chat")
  .addOption(requiredOption("model", "<place>", "a folder, a .gguf file, or ORG/NAME on the hub"))
  .addOption(requiredOption("out", "<folder>", "folder of the result"))
  .addOption(
    option(
      "bits",
      "<bits>",
      "bits of a weight; nf4 is 4-bit NormalFloat",
      z.enum(["4", "8", "nf4"]).default("4"),
    ),
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
    ),
  )
  .action(
    async ({
      model: source,
      out,
      bits,
      blockSize,
      symmetric,
      candidates,
      threads,
      json,
    }: QuantizeCommand) => {
      const started = performance.now();
      const scheme = schemeOf(bits, { blockSize, symmetric, candidates });
      const loaded = await loadForInference(createRuntime({ threads }), await modelFor(source), {
        quantize: scheme,
      });
      await saveModel(out, loaded);
      const seconds = (performance.now() - started) / 1000;
      const { packed, tensors } = loaded.weights.constants;
      const { byteLength } = loaded.weights;
      const counts = { packed: Object.keys(packed).length, inFull: Object.keys(tensors).length };
      print(
        json
          ? `${JSON.stringify({ out, bits, byteLength, ...counts, seconds })}\n`
          : `${out}: ${formatBytes(byteLength)}, ${counts.packed} matrices quantised, ${counts.inFull} tensors in full precision, in ${seconds.toFixed(1)} s\n`,
      );
    },
  );
