import { Command, Option } from "commander";
import { LineageError } from "../base/errors.js";
import { formatBytes } from "../base/memory.js";
import { loadForInference, saveQuantized } from "../checkpoints/index.js";
import type { QuantizationScheme } from "../quantization/index.js";
import { createRuntime } from "../runtime/index.js";
import { examples, number } from "./options.js";

/** Bits as the command line has them. */
export type QuantizedBits = "4" | "8" | "nf4";

export function schemeOf(
  bits: QuantizedBits | undefined,
  rest: Omit<QuantizationScheme, "bits"> = {},
): QuantizationScheme | undefined {
  return bits && { ...rest, bits: bits === "nf4" ? bits : bits === "4" ? 4 : 8 };
}

export const fastPromptsHelp =
  "read prompts about twice as fast with a copy of the matrices in 8 bits, where the processor has instructions for that: a byte more for each weight";

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
  .description("keep a model's matrices in 4 or 8 bits: a folder for generate and chat")
  .requiredOption("--model <source>", "checkpoint folder, or .gguf file")
  .requiredOption("--out <folder>", "where the result goes")
  .addOption(
    new Option("--bits <bits>", "whole numbers of 4 or 8 bits, or 4-bit NormalFloat")
      .choices(["4", "8", "nf4"])
      .default("4"),
  )
  .option(
    "--block-size <n>",
    "columns that share a scale: 16 to 256, or `row` with 8 bits; default 32, for nf4 64",
    (text) => (text === "row" ? text : number(text)),
  )
  .option("--symmetric", "no zero points: blocks around 0")
  .option("--candidates <n>", "scales tried for each block", number, 16)
  .option("--threads <n>", "threads of the engine", number)
  .option("--json", "one JSON object")
  .addHelpText(
    "after",
    examples(
      ["lineage quantize --model runs/mine --out runs/mine-4", "4 bits in blocks of 32"],
      ["lineage quantize --model big --bits 4 --block-size 128 --out big-4", "the fastest"],
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
      if (!Number.isInteger(candidates) || candidates < 1)
        throw new LineageError(
          "argument",
          `--candidates must be a whole number of at least 1, not ${candidates}`,
        );
      const started = performance.now();
      const scheme = schemeOf(bits, { blockSize, symmetric, candidates });
      const loaded = await loadForInference(createRuntime({ threads }), source, { quantize: scheme });
      await saveQuantized(out, loaded);
      const seconds = (performance.now() - started) / 1000;
      const { packed, tensors } = loaded.weights.constants;
      const { byteLength } = loaded.weights;
      const counts = { packed: Object.keys(packed).length, inFull: Object.keys(tensors).length };
      process.stdout.write(
        json
          ? `${JSON.stringify({ out, bits, byteLength, ...counts, seconds })}\n`
          : `${out}: ${formatBytes(byteLength)}, ${counts.packed} matrices packed and ${counts.inFull} tensors in full precision, in ${seconds.toFixed(1)} s\n`,
      );
    },
  );
