import { mkdir } from "node:fs/promises";
import path from "node:path";
import { writeJson } from "../base/files.js";
import { type CausalModel, decoderOutputs, encoderDecoderOutputs } from "../generation/index.js";
import { saveOnnx, type SaveOnnxOptions, writeTokenizer } from "../formats/index.js";
import type { Tensor } from "../graph/index.js";
import type { Module, WeightSet } from "../nn/index.js";
import { configJson } from "../models/index.js";
import { halveWeights, quantizeWeights } from "../quantization/index.js";
import { Tokenizer } from "../tokenizers/index.js";
import { type MakeVector, encoderOutputs } from "./encoder-onnx.js";
import { type HeldEncoder, classesOf, encoderIn, staysWhole } from "./held-encoder.js";
import type { DecoderCheckpoint, EncoderDecoderCheckpoint } from "./checkpoint.js";
import { replaceModel } from "./folder.js";
import { writeGenerationConfig } from "./generation-config.js";

/** Writes `decoderOutputs` of a model with its weights, as `saveOnnx` does. */
export const saveDecoderOnnx = (
  file: string,
  model: CausalModel,
  weights: WeightSet,
  options: Omit<SaveOnnxOptions, "weights"> = {},
): Promise<void> => saveOnnx(file, decoderOutputs(model), { name: "decoder", ...options, weights });

/** How matrices are kept in a folder for transformers.js, in its words: 32-bit and 16-bit floats, 8 and 4 bits. */
export const onnxDtypes = ["fp32", "fp16", "q8", "q4"] as const;
export type OnnxDtype = (typeof onnxDtypes)[number];

/** How transformers.js ends the names of the files in which it looks for them. */
const suffixes: Readonly<Record<OnnxDtype, string>> = {
  fp32: "",
  fp16: "_fp16",
  q8: "_quantized",
  q4: "_q4",
};

/** The programs of a folder for transformers.js: `model`, or of an encoder-decoder the other two. */
type ProgramName = "model" | "encoder_model" | "decoder_model_merged";

/** The file of a folder for transformers.js that holds a program with its matrices kept so. */
export const onnxFileOf = (folder: string, dtype: OnnxDtype, program: ProgramName = "model"): string =>
  path.join(folder, "onnx", `${program}${suffixes[dtype]}.onnx`);

/** What fewer bits are: blocks of 128 are read nearly as exactly as of 32, and faster in a page. */
const schemes = { q8: { bits: 8, blockSize: 128 }, q4: { bits: 4 } } as const;

/** A network that leaves: what it computes, and which of its parameters stay in full precision. */
interface Leaving {
  readonly name: string;
  readonly network: Module;
  /** What each program computes. */
  readonly programs: Readonly<Partial<Record<ProgramName, Readonly<Record<string, Tensor>>>>>;
  readonly weights: WeightSet;
  readonly whole?: (name: string) => boolean;
}

/** Writes a folder that transformers.js loads: a file for each dtype, its weights beside it, configuration and tokenizer. */
async function writeForTransformersJs(
  folder: string,
  { name, network, programs, weights, whole }: Leaving,
  dtypes: readonly OnnxDtype[],
  config: Readonly<Record<string, unknown>>,
  tokenizer: Tokenizer,
  beside?: (staging: string) => Promise<void>,
): Promise<void> {
  await replaceModel(folder, async (staging) => {
    await mkdir(path.join(staging, "onnx"));
    for (const dtype of new Set(dtypes)) {
      const save = async (kept: WeightSet): Promise<void> => {
        for (const [program, outputs] of Object.entries(programs))
          await saveOnnx(onnxFileOf(staging, dtype, program as ProgramName), outputs, {
            name,
            weights: kept,
          });
      };
      if (dtype === "fp32") {
        await save(weights);
        continue;
      }
      using fewer =
        dtype === "fp16"
          ? halveWeights(network, weights)
          : await quantizeWeights(network, weights, schemes[dtype], { whole });
      await save(fewer);
    }
    await writeTokenizer(tokenizer, staging);
    await writeJson(path.join(staging, "config.json"), {
      ...config,
      "transformers.js_config": {
        use_external_data_format: true,
        // It takes fp32 in Node and q8 in a page unless it is told otherwise.
        ...(!(dtypes.includes("fp32") && dtypes.includes("q8")) && { dtype: dtypes[0] }),
      },
    });
    await beside?.(staging);
  });
}

/**
 * Writes a folder that transformers.js loads: the decoder in `onnx/model.onnx`, its weights in `onnx/model.onnx_data`,
 * configuration and tokenizer beside them.
 * @param dtypes a file for each; the first is the default where transformers.js's own is not among them
 */
export const exportForTransformersJs = (
  folder: string,
  { system, model, weights, tokenizer }: DecoderCheckpoint<WeightSet>,
  dtypes: readonly OnnxDtype[] = ["fp32"],
): Promise<void> =>
  writeForTransformersJs(
    folder,
    { name: "decoder", network: model, programs: { model: decoderOutputs(model) }, weights },
    dtypes,
    configJson(system, model.config),
    tokenizer,
  );

export interface ExportEncoderOptions {
  /** A file for each; the first is the default where transformers.js's own is not among them. Default: fp32 and q8. */
  readonly dtypes?: readonly OnnxDtype[];
  /** Gives texts' vectors as a further output of an encoder without a head. */
  readonly vector?: MakeVector | undefined;
  /** Tokens to which a text is cut. Default: as the tokenizer says, and no more than the model knows. */
  readonly maxLength?: number | undefined;
  /** Writes further files beside the model. Default: none. */
  readonly beside?: (staging: string) => Promise<void>;
}

/** As `exportForTransformersJs`, for an encoder alone or with a head: `encoderOutputs`. */
export async function exportEncoderForTransformersJs(
  folder: string,
  held: HeldEncoder<WeightSet>,
  { dtypes = ["fp32", "q8"], vector, maxLength, beside }: ExportEncoderOptions = {},
): Promise<void> {
  await writeForTransformersJs(
    folder,
    {
      name: "encoder",
      network: held.model,
      programs: { model: encoderOutputs(held, vector) },
      weights: held.weights,
      whole: staysWhole(held),
    },
    dtypes,
    {
      ...configJson(held.system, encoderIn(held).config, "head" in held ? held : {}),
      ...numberedLabels(held),
    },
    cutting(held.tokenizer, encoderIn(held).config.contextLength, maxLength),
    beside,
  );
}

/**
 * Writes a folder that transformers.js loads: `onnx/encoder_model.onnx` and `onnx/decoder_model_merged.onnx` as
 * `encoderDecoderOutputs` has them, with how the model writes beside them.
 * @param dtypes two files for each; the first is the default where transformers.js's own is not among them
 */
export async function exportEncoderDecoderForTransformersJs(
  folder: string,
  { system, model, weights, tokenizer, stopIds, generation }: EncoderDecoderCheckpoint<WeightSet>,
  dtypes: readonly OnnxDtype[] = ["fp32", "q8"],
): Promise<void> {
  const { encoder, decoder } = encoderDecoderOutputs(model);
  const { contextLength, decoderStartTokenId: startId, padTokenId: padId } = model.config;
  await writeForTransformersJs(
    folder,
    {
      name: system.title,
      network: model,
      programs: { encoder_model: encoder, decoder_model_merged: decoder },
      weights,
    },
    dtypes,
    configJson(system, model.config),
    cutting(tokenizer, contextLength),
    (staging) =>
      writeGenerationConfig(staging, tokenizer, { stopIds, generation: { startId, ...generation }, padId }),
  );
}

/** The tokenizer as transformers.js reads it, which cuts a text where the model's positions end, or earlier. */
function cutting(tokenizer: Tokenizer, contextLength: number, maxLength?: number): Tokenizer {
  const said = tokenizer.config["model_max_length"];
  const limit = Math.min(maxLength ?? (typeof said === "number" ? said : Infinity), contextLength);
  return new Tokenizer(tokenizer.standalone, { ...tokenizer.config, model_max_length: limit });
}

/** Names of classes, which transformers.js answers by: numbers where nobody named them. */
function numberedLabels(held: HeldEncoder<WeightSet>): Record<string, unknown> {
  if (!("head" in held) || held.labels !== undefined) return {};
  if (held.head !== "classify" && held.head !== "tag") return {};
  const count = classesOf(held);
  const names = Array.from({ length: count }, (_, id) => `LABEL_${id}`);
  return {
    id2label: Object.fromEntries(names.map((name, id) => [id, name])),
    label2id: Object.fromEntries(names.map((name, id) => [name, id])),
    ...(count === 1 && { problem_type: "regression" }),
  };
}
