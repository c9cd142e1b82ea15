import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { count } from "../base/numbers.js";
import { input } from "../graph/index.js";
import { ggufFormats, saveOnnx } from "../formats/index.js";
import {
  type CheckpointOfKind,
  type Comparison,
  adapterBase,
  compareModels,
  compareOnnx,
  holdsAdapter,
  holdsReader,
  kindIn,
  loadAdapter,
  loadForInference,
  loadModel,
  saveAdapter,
  saveGguf,
  saveGgufAdapter,
  saveModel,
} from "../checkpoints/index.js";
import { convertEncoder, saveEncoderOnnx } from "../library/leave.js";
import { isForTask } from "../library/load.js";
import { createRuntime } from "../runtime/index.js";
import type { Runtime } from "../runtime/types.js";
import { describeEncoders, encoderProblems, refuseProblems } from "./comparison.js";
import { modelFor } from "./model.js";
import { examples, option, threadsOption } from "./options.js";
import { colors, print } from "./terminal.js";

interface ConvertCommand {
  readonly format?: string;
  readonly base?: string;
  readonly dtype: "float32" | "float16" | "bfloat16";
  readonly shardSize: number;
  readonly threads?: number;
  readonly json?: boolean;
}

/** What the rounding of a format may change at most, in nats of mean divergence; more is a mistake. */
const tolerance: Readonly<Record<string, number>> = {
  F32: 1e-5,
  F16: 1e-3,
  Q8_0: 0.05,
  Q4_0: 3,
  float32: 1e-5,
  float16: 1e-3,
  bfloat16: 0.05,
};

async function convert(from: string, to: string, command: ConvertCommand): Promise<void> {
  if (from === to)
    throw new LineageError("argument", "source and result are the same place; name another one");
  checkEnding(to);
  const runtime = createRuntime({ threads: command.threads });
  if (await holdsAdapter(from)) return convertAdapter(runtime, from, to, command);
  if (command.base !== undefined)
    throw new LineageError("argument", `${from} holds no adapter, so it has no base; leave out --base`);
  const place = await modelFor(from);
  const systemKind = await kindIn(place);
  if (systemKind === "encoder" || (await holdsReader(place))) {
    await convertEncoderTo(runtime, place, to, command);
    return;
  }
  const isOnnx = to.endsWith(".onnx");
  if (systemKind === "encoder-decoder" && isOnnx)
    throw new LineageError(
      "unsupported",
      `${from} holds an encoder-decoder, which is two programs with a cache between them: lineage export writes them into a folder, for transformers.js and any ONNX engine`,
    );
  const source = await loadModel(runtime, place, { kind: systemKind });
  using weights = source.weights;
  let comparison: Comparison;
  let kind: string;
  if (isOnnx && isDecoder(source)) {
    const inputIds = input("inputIds", "int64", ["batch", "sequence"]);
    const { model } = source;
    await saveOnnx(to, { logits: model.forward(inputIds) }, { name: source.system.title, weights });
    kind = "float32";
    comparison = await compareOnnx(runtime, source, to);
  } else {
    const { format = "F16" } = command;
    kind = to.endsWith(".gguf") ? format : command.dtype;
    if (to.endsWith(".gguf")) await saveGguf(to, source, { format });
    else {
      await mkdir(to, { recursive: true });
      await saveModel(to, source, { dtype: command.dtype, shardBytes: command.shardSize * 1e6 });
    }
    const result = await loadModel(runtime, to, { kind: systemKind });
    using resultWeights = result.weights;
    comparison = await compareModels(source, { ...result, weights: resultWeights });
  }
  const problems = problemsOf(comparison, tolerance[kind]!);
  if (command.json) print(`${JSON.stringify({ from, to, kind, ...comparison, problems })}\n`);
  else print(`${describe(comparison, from, to)}\n`);
  refuseProblems(problems, from, to);
}

/** A LoRA adapter of peft's as a GGUF, or the other way round. It is compared with its source beside their base. */
async function convertAdapter(
  runtime: Runtime,
  from: string,
  to: string,
  { base: named, format = "F32", json }: ConvertCommand,
): Promise<void> {
  if (to.endsWith(".onnx"))
    throw new LineageError(
      "argument",
      `${from} holds an adapter, which is written as a .gguf file or a folder; merge it to export a model`,
    );
  const base = named ?? (await adapterBase(from));
  if (base === undefined)
    throw new LineageError("argument", `${from} does not say what model it is for; name it: --base MODEL`);
  const place = await modelFor(base);
  const kind = await kindIn(place);
  if (kind === "encoder" || (await isForTask(place, from)))
    throw new LineageError(
      "unsupported",
      `${from} is an adapter of a task, and llama.cpp's adapters are of models that write; merge it, and convert the result`,
    );
  const source = await loadForInference(runtime, place, { kind });
  const { adapter, weights } = await loadAdapter(from, source);
  if (adapter.kind !== "lora")
    throw new LineageError("unsupported", `${from} is a soft prompt, which llama.cpp has no file for`);
  const adapted = { ...source, adapter, weights };
  if (to.endsWith(".gguf")) await saveGgufAdapter(to, adapted, { format });
  else await saveAdapter(to, { ...adapted, base });
  const result = await loadForInference(runtime, place, { kind, adapter: to });
  const comparison = await compareModels(adapted, result);
  weights.dispose();
  result.weights.dispose();
  // What lies beside the numbers, tokens and template, is the base's in both.
  const predictions = { ...comparison, files: undefined };
  const problems = problemsOf(predictions, tolerance[to.endsWith(".gguf") ? format : "float32"]!);
  print(
    json
      ? `${JSON.stringify({ from, to, base, kind: format, ...predictions, problems })}\n`
      : `${describe(predictions, `${to} beside ${base}`, from)}\n`,
  );
  refuseProblems(problems, from, to);
}

const isDecoder = (
  source: CheckpointOfKind["decoder" | "encoder-decoder"],
): source is CheckpointOfKind["decoder"] => source.system.kind === "decoder";

/** An encoder as one ONNX file, or as a folder in another dtype. Throws `unsupported` for a GGUF. */
async function convertEncoderTo(
  runtime: Runtime,
  from: string,
  to: string,
  { dtype, shardSize, json }: ConvertCommand,
): Promise<void> {
  if (to.endsWith(".gguf"))
    throw new LineageError(
      "unsupported",
      `${from} holds an encoder or a fine-tuned head, and lineage writes GGUF files of language models and T5 alone: convert it to a .onnx file or a folder, or export it for transformers.js`,
    );
  const kind = to.endsWith(".onnx") ? "float32" : dtype;
  const comparison = to.endsWith(".onnx")
    ? await saveEncoderOnnx(runtime, from, to)
    : await convertEncoder(runtime, from, to, { dtype, shardBytes: shardSize * 1e6 });
  const problems = encoderProblems(comparison, kind);
  print(
    json
      ? `${JSON.stringify({ from, to, kind, ...comparison, problems })}\n`
      : `${describeEncoders(comparison, from, to)}\n`,
  );
  refuseProblems(problems, from, to);
}

/** Whether the special tokens are the same ones. A GGUF ends besides at every token whose name says so. */
function sameSpecialIds({ specialIds: { source, result } }: NonNullable<Comparison["files"]>): boolean {
  const ends = (ids: typeof source): readonly number[] => (Array.isArray(ids["stop"]) ? ids["stop"] : []);
  const rest = (ids: typeof source) => JSON.stringify({ ...ids, stop: undefined });
  const kept = new Set(ends(result));
  return rest(source) === rest(result) && ends(source).every((id) => kept.has(id));
}

/** Throws `argument` for an ending that no format has: it would become the name of a folder. */
function checkEnding(to: string): void {
  const ending = /\.[A-Za-z][A-Za-z0-9]{0,11}$/.exec(to)?.[0];
  if (
    ending === undefined ||
    ending === ".gguf" ||
    ending === ".onnx" ||
    existsSync(path.join(to, "config.json"))
  )
    return;
  throw new LineageError(
    "argument",
    ending === ".safetensors"
      ? `${to}: safetensors are written into a folder, with config.json and the tokenizer; name a folder`
      : `${to}: convert does not write ${ending} files; end the name in .gguf or .onnx, or name a folder for safetensors`,
  );
}

/** What of a comparison shows that the result is another model. */
function problemsOf({ meanDivergence, files }: Comparison, allowed: number): string[] {
  const problems: string[] = [];
  if (!(meanDivergence <= allowed))
    problems.push(
      `its predictions diverge by ${meanDivergence.toExponential(1)} nats, more than rounding can explain`,
    );
  if (!files) return problems;
  if (files.tied.source !== files.tied.result) problems.push("its output embeddings are tied in another way");
  if (files.differentTokens > 0) problems.push(`${files.differentTokens} token ids differ`);
  if (!files.sameCut) problems.push("it cuts texts into different tokens");
  if (!sameSpecialIds(files)) problems.push("its special tokens differ");
  if (files.sameTemplate === false) problems.push("its chat template differs");
  return problems;
}

function describe(comparison: Comparison, from: string, to: string): string {
  const { tokens, files } = comparison;
  const lines: [string, string][] = [
    [
      "predictions",
      `divergence ${comparison.meanDivergence.toExponential(1)} nats on average, ${comparison.largestDivergence.toExponential(1)} at most; same most probable token after ${comparison.sameFirst} of ${tokens}`,
    ],
  ];
  if (files) {
    const verdict = (same: boolean) => (same ? colors.green("the same") : colors.red("DIFFERENT"));
    const ids = (record: object) =>
      Object.entries(record)
        .map(([name, id]) => `${name} ${id === undefined ? "none" : String(id)}`)
        .join(", ");
    const { source, result } = files.specialIds;
    const sameIds = sameSpecialIds(files);
    lines.push(
      [
        "embeddings",
        `${files.tied.result ? "tied" : "not tied"} to the output: ${verdict(files.tied.source === files.tied.result)}`,
      ],
      [
        "vocabulary",
        `${count(files.vocabularySize.result)} tokens: ${verdict(files.differentTokens === 0)}; cuts the probe: ${verdict(files.sameCut)}`,
      ],
      ["special ids", `${ids(result)}: ${verdict(sameIds)}${sameIds ? "" : ` (source: ${ids(source)})`}`],
      ["chat template", files.sameTemplate === undefined ? "none in either" : verdict(files.sameTemplate)],
    );
  }
  return [
    `${to}, compared with ${from}:`,
    ...lines.map(([name, text]) => `  ${name.padEnd(14)} ${text}`),
  ].join("\n");
}

export const convertCommand = new Command("convert")
  .description("convert a model or an adapter to another format, and compare the result with its source")
  .argument(
    "<from>",
    "a folder, a .gguf file, or ORG/NAME on the hub; or an adapter: a folder of peft's, a .gguf file",
  )
  .argument("<to>", "a file ending in .gguf or .onnx, or a folder for safetensors")
  .addOption(
    option("format", "<name>", "format of matrices in a GGUF", z.enum(ggufFormats.writable), {
      usual: "F16; of an adapter F32",
    }),
  )
  .addOption(
    option("base", "<place>", "the model of an adapter", z.string(), {
      usual: "as its adapter_config.json says",
    }),
  )
  .addOption(
    option(
      "dtype",
      "<name>",
      "type of numbers in safetensors",
      z.enum(["float32", "float16", "bfloat16"]).default("float32"),
    ),
  )
  .addOption(
    option(
      "shardSize",
      "<mb>",
      "largest size of one safetensors file, in MB",
      z.number().positive().default(5000),
    ),
  )
  .addOption(threadsOption())
  .option("--json", "the comparison, as one JSON object")
  .addHelpText(
    "after",
    examples(
      ["lineage convert runs/mine mine.gguf --format Q8_0", "for llama.cpp"],
      ["lineage convert model.gguf folder --dtype bfloat16", "for Hugging Face transformers"],
      ["lineage convert folder model.onnx", "for any ONNX engine"],
      ["lineage convert runs/my-t5 my-t5.gguf", "T5 and mT5 for llama.cpp"],
      ["lineage convert runs/lora lora.gguf --base some-llama", "an adapter for llama.cpp, beside its base"],
    ),
  )
  .action(convert);
