import { trainWordPiece } from "../../src/tokenizers/index.js";
import { networkForTask, saveModel } from "../../src/checkpoints/index.js";
import { bert, bertConfig, bertTable } from "../../src/models/index.js";
import { type HeadName, Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const words =
  "good bad film food song dog cat the a was is very not and i you it really old new play red".split(" ");

/** Sentences of a few words, of which some are kind and some are not. */
export const sentences = words.map(
  (word, place) => `the ${word} was ${words[(place * 7) % words.length]!} and ${word}`,
);

/** Writes a folder with a BERT of two narrow layers, random weights and a WordPiece tokenizer of a few words. */
export async function writeTinyBert(
  folder: string,
  head: HeadName = "fill-mask",
  numLabels = 2,
): Promise<void> {
  const tokenizer = trainWordPiece([...sentences, ...sentences], { vocabSize: 90 });
  const config = bertConfig({
    vocabSize: tokenizer.vocabSize,
    hiddenSize: 32,
    numLayers: 2,
    numHeads: 2,
    contextLength: 64,
    hiddenDropout: 0.1,
    attentionDropout: 0,
    initializerRange: 0.2,
  });
  const model = networkForTask(bertTable.write(config), head, numLabels);
  using runtime = createRuntime();
  using weights = Weights.initialize(runtime, model, 7);
  await saveModel(folder, { system: bert, model, weights, tokenizer, head });
}
