import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import path from "node:path";
import { Command } from "commander";
import { LineageError } from "../base/errors.js";
import { readJson } from "../base/files.js";
import { formatBytes } from "../base/memory.js";
import { count } from "../base/numbers.js";
import { adapterFiles, holdsAdapter } from "../checkpoints/index.js";
import { GgufFile, SafetensorsFile, openWeightFiles, placeOf, readOnnx } from "../formats/index.js";
import { TensorProto_DataType } from "../onnx/index.js";
import { modelFor } from "./model.js";
import { examples } from "./options.js";
import { print } from "./terminal.js";

interface TensorRow {
  readonly name: string;
  readonly type: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** What is in a file or a folder. */
interface Contents {
  readonly kind: string;
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly tensors: readonly TensorRow[];
}

async function inspect(
  place: string,
  { json, tensors: all }: { json?: boolean; tensors?: boolean },
): Promise<void> {
  const { kind, metadata, tensors } = await read(place);
  const parameters = tensors.reduce(
    (sum, { shape }) => sum + shape.reduce((product, dim) => product * dim, 1),
    0,
  );
  const bytes = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0);
  const types = new Map<string, { tensors: number; bytes: number }>();
  for (const tensor of tensors) {
    const entry = types.get(tensor.type) ?? { tensors: 0, bytes: 0 };
    types.set(tensor.type, { tensors: entry.tensors + 1, bytes: entry.bytes + tensor.bytes });
  }
  if (json) {
    const summary = {
      place,
      kind,
      parameters,
      bytes,
      float32Bytes: 4 * parameters,
      types: Object.fromEntries(types),
    };
    print(`${JSON.stringify({ ...summary, metadata, tensors })}\n`);
    return;
  }
  const lines = [
    `${place}: ${kind}`,
    `  parameters  ${count(parameters)} in ${count(tensors.length)} tensors`,
    `  memory      ${formatBytes(bytes)} as stored, ${formatBytes(4 * parameters)} in float32`,
    ...Array.from(
      types,
      ([type, entry]) => `  ${type.padEnd(10)}  ${count(entry.tensors)} tensors, ${formatBytes(entry.bytes)}`,
    ),
    ...Object.entries(metadata).map(([key, value]) => `  ${key} = ${shorten(value)}`),
    ...(all
      ? tensors.map(
          ({ name, type, shape, bytes: size }) =>
            `  ${name}  ${type} [${shape.join(", ")}], ${formatBytes(size)}`,
        )
      : []),
  ];
  print(`${lines.join("\n")}\n`);
}

function shorten(value: unknown): string {
  if (Array.isArray(value) && value.length > 8)
    return `[${value
      .slice(0, 6)
      .map((entry) => JSON.stringify(entry))
      .join(", ")}, … ${count(value.length)} entries]`;
  const text = typeof value === "bigint" ? String(value) : JSON.stringify(value);
  return text.length > 120 ? `${text.slice(0, 117)}…` : text;
}

async function read(given: string): Promise<Contents> {
  const place = existsSync(given) ? given : await modelFor(given);
  if ((await stat(place)).isDirectory()) {
    if (await holdsAdapter(place)) {
      const { config, weights } = adapterFiles(place);
      const file = await SafetensorsFile.open(weights);
      return {
        kind: "an adapter in peft's layout",
        metadata: (await readJson(config)) as Record<string, unknown>,
        tensors: safetensorsRows(file),
      };
    }
    const files = await openWeightFiles(place);
    const config = path.join(place, "config.json");
    return {
      kind: `a checkpoint folder with ${files.length} safetensors file${files.length === 1 ? "" : "s"}`,
      metadata: existsSync(config) ? ((await readJson(config)) as Record<string, unknown>) : {},
      tensors: files.flatMap(safetensorsRows),
    };
  }
  if ((await placeOf(place)) === "gguf") {
    const { header } = await GgufFile.open(place);
    return {
      kind: `GGUF, version ${header.version}`,
      metadata: Object.fromEntries(Array.from(header.metadata, ([key, { value }]) => [key, value])),
      tensors: Array.from(header.tensors, ([name, { format, shape, byteLength }]) => ({
        name,
        type: format.name,
        shape,
        bytes: byteLength,
      })),
    };
  }
  if (place.endsWith(".safetensors")) {
    const file = await SafetensorsFile.open(place);
    return { kind: "safetensors", metadata: file.header.metadata, tensors: safetensorsRows(file) };
  }
  if (place.endsWith(".onnx")) {
    const model = await readOnnx(place);
    return {
      kind: `ONNX, ${count(model.graph!.node.length)} nodes`,
      metadata: {
        producer: model.producerName,
        inputs: model.graph!.input.map(({ name }) => name),
        outputs: model.graph!.output.map(({ name }) => name),
      },
      tensors: model.graph!.initializer.map((tensor) => ({
        name: tensor.name,
        type: TensorProto_DataType[tensor.dataType]?.toLowerCase() ?? "unknown",
        shape: tensor.dims.map(Number),
        bytes: tensor.rawData.byteLength,
      })),
    };
  }
  throw new LineageError(
    "argument",
    `${place} is not a model: inspect reads folders and .gguf, .safetensors and .onnx files`,
  );
}

const safetensorsRows = ({ header }: SafetensorsFile): TensorRow[] =>
  Array.from(header.tensors, ([name, { dtype, shape, byteLength }]) => ({
    name,
    type: dtype,
    shape,
    bytes: byteLength,
  }));

export const inspectCommand = new Command("inspect")
  .description("show what is in a model file or folder: sizes, types, metadata, memory needed")
  .argument("<place>", "a folder, a .gguf, .safetensors or .onnx file, or ORG/NAME on the hub")
  .option("--tensors", "list every tensor")
  .option("--json", "everything, as one JSON object")
  .addHelpText(
    "after",
    examples(
      ["lineage inspect model.gguf", "what is in it"],
      ["lineage inspect folder --tensors", "with every tensor"],
    ),
  )
  .action(inspect);
