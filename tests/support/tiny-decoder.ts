import { saveModel } from "../../src/checkpoints/index.js";
import { type DecoderSystem, gpt1, gpt2, llama, palm } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { trainByteLevelBpe, trainWordBpe } from "../../src/tokenizers/index.js";
import { sentences } from "./tiny-encoder.js";

const systems: Readonly<Record<string, DecoderSystem>> = { gpt1, gpt2, llama, palm };

/** Writes a folder with a decoder of two narrow layers, random weights and a tokenizer of a few words. */
export async function writeTinyDecoder(
  folder: string,
  name: "gpt1" | "gpt2" | "llama" | "palm",
): Promise<void> {
  const texts = [...sentences, ...sentences];
  const system = systems[name]!;
  const tokenizer =
    name === "gpt1" ? trainWordBpe(texts, { vocabSize: 160 }) : trainByteLevelBpe(texts, { vocabSize: 400 });
  const config = system.config.create({
    ...{ hiddenSize: 32, numLayers: 2, numHeads: 2, contextLength: 64, vocabSize: tokenizer.vocabSize },
    ...(system.config.has("dropout") && { dropout: 0, classifierDropout: 0 }),
  });
  const model = system.create(config);
  using runtime = createRuntime();
  using weights = Weights.initialize(runtime, model, 7);
  await saveModel(folder, { system, model, weights, tokenizer });
}
