import path from "node:path";
import { FormatError, LineageError } from "../base/errors.js";
import { requireMemory } from "../base/memory.js";
import {
  GgufFile,
  type GgufPlace,
  checkGgufShape,
  ggufConfig,
  ggufModel,
  ggufPlace,
  rearrange,
  ropeScalingOfFactors,
  tensorFormat,
  ggufFormat,
  ggufStopIds,
  ggufTokenizer,
  ggufTokenizerMetadata,
  writeGguf,
} from "../formats/index.js";
import { type Parameter, Weights, namedParameters } from "../nn/index.js";
import type { Runtime } from "../runtime/types.js";
import { decoderConfigJson, decoderOf } from "../models/index.js";
import type { LoadOptions, LoadedModel } from "./loaded.js";

/** Tensors that a GGUF may hold besides the parameters: what positions are scaled by, and a copy of tied embeddings. */
const unused = /^(rope_freqs|output)\.weight$/;

/** The `config.json` of a GGUF's model; what only tensors tell is read from them. */
export async function ggufModelConfig(gguf: GgufFile): Promise<Record<string, unknown>> {
  const config = ggufConfig(gguf);
  const scaling = await ropeScalingOfFactors(gguf, config);
  return scaling ? { ...config, rope_scaling: scaling } : { ...config };
}

/** A GGUF's model without its numbers, and where they lie. */
interface OpenedGguf extends Omit<LoadedModel, "weights"> {
  readonly gguf: GgufFile;
  readonly parameters: ReadonlyMap<string, Parameter>;
  readonly places: ReadonlyMap<string, GgufPlace>;
}

export async function openGguf(file: string, { systems = [] }: LoadOptions): Promise<OpenedGguf> {
  const gguf = await GgufFile.open(file);
  const json = await ggufModelConfig(gguf);
  const system = decoderOf(json, systems);
  const model = system.create(system.config.read(json));
  const tokenizer = ggufTokenizer(gguf);
  if (tokenizer.vocabSize > model.config.vocabSize)
    throw new FormatError(
      file,
      `the tokenizer has ${tokenizer.vocabSize} tokens, but the model has embeddings for ${model.config.vocabSize}`,
    );
  const parameters = namedParameters(model);
  const places = new Map(Array.from(parameters.keys(), (name) => [name, ggufPlace(name, json)]));
  const taken = new Set<string>();
  for (const [name, place] of places) {
    checkGgufShape(gguf, place, parameters.get(name)!.shape);
    taken.add(place.name);
  }
  const extra = [...gguf.tensors.keys()].find((name) => !taken.has(name) && !unused.test(name));
  if (extra !== undefined)
    throw new FormatError(
      file,
      `the tensor ${extra} has no place in the model that the metadata describe: it is another architecture's`,
    );
  return { gguf, system, model, tokenizer, stopIds: ggufStopIds(gguf), parameters, places };
}

/**
 * Reads a GGUF of the architectures llama (LLaMA, Mistral) and gpt2: model, weights in float32 and tokenizer. Throws
 * FormatError where the file contradicts itself, `memory` before it begins what will not fit into what is free.
 */
export async function loadGguf(
  runtime: Runtime,
  file: string,
  options: LoadOptions = {},
): Promise<LoadedModel> {
  const { gguf, system, model, tokenizer, stopIds, parameters, places } = await openGguf(file, options);
  const size = [...parameters.values()].reduce((sum, parameter) => sum + parameter.size, 0);
  requireMemory(4 * size, `the weights of ${file} in float32`, "take a smaller model, or a quantised one");
  const weights = Weights.allocate(runtime, model);
  try {
    for (const [name, place] of places) {
      const { shape } = parameters.get(name)!;
      const values = await gguf.readValues(place.name);
      weights.get(name).write(rearrange(values, shape, place, "fromGguf"));
    }
    return { system, model, weights, tokenizer, stopIds };
  } catch (error) {
    weights.dispose();
    throw error;
  }
}

export interface SaveGgufOptions {
  /** How matrices are kept: F32, F16, Q8_0 or Q4_0, where their rows are whole blocks of it, else F16. Default F16. */
  readonly format?: string;
  /** What the model is called. Default: the file's name. */
  readonly name?: string;
}

/** Writes a GGUF that llama.cpp loads. Throws `unsupported` for a model or tokenizer that llama.cpp has no words for. */
export async function saveGguf(
  file: string,
  { system, model, weights, tokenizer, stopIds }: LoadedModel,
  { format = "F16", name = path.basename(file, ".gguf") }: SaveGgufOptions = {},
): Promise<void> {
  if (!ggufFormat(format).quantize)
    throw new LineageError("argument", `lineage does not write ${format}; it writes F32, F16, Q8_0 and Q4_0`);
  const json = decoderConfigJson(system, model);
  const { metadata, tensors } = ggufModel(json, name);
  metadata.set("general.file_type", { type: "uint32", value: fileTypes[format]! });
  const { vocabSize } = model.config;
  for (const [key, value] of ggufTokenizerMetadata(tokenizer, vocabSize, stopIds ?? []))
    metadata.set(key, value);
  for (const [parameter, { shape }] of namedParameters(model)) {
    const place = ggufPlace(parameter, json);
    tensors.push({
      name: place.name,
      format: ggufFormat(tensorFormat(place, shape, format)),
      shape: place.transposed ? [...shape].reverse() : shape,
      values: () => rearrange(weights.get(parameter).view(), shape, place, "toGguf"),
    });
  }
  await writeGguf(file, metadata, tensors);
}

/** llama.h, enum llama_ftype. */
const fileTypes: Readonly<Record<string, number>> = { F32: 0, F16: 1, Q4_0: 2, Q8_0: 7 };
