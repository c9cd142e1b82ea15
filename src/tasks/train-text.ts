import { LineageError } from "../base/errors.js";
import { count } from "../base/numbers.js";
import {
  type Corpus,
  type CorpusSize,
  type TokenizedCorpus,
  documentsIn,
  measureCorpus,
  tokenizeCorpus,
} from "../data/index.js";
import { loadTokenizer } from "../formats/index.js";
import type { DecoderSystem } from "../models/index.js";
import { type Tokenizer, characterTokenizer, trainTokenizer } from "../tokenizers/index.js";
import type { TrainControl, TrainOptions } from "./train-options.js";

/** The documents of both parts. Throws where nothing tells one from the next. */
export function packedData(tokens: TokenizedCorpus, tokenizer: Tokenizer, context: number, name: string) {
  const { endOfTextId } = tokenizer;
  if (endOfTextId === undefined)
    throw new LineageError(
      "tokenizer",
      "--packing documents needs an end-of-text token, which this tokenizer does not have; leave --packing out",
    );
  const training = documentsIn(tokens.training, endOfTextId, context);
  if (training.documents < 2)
    throw new LineageError(
      "data",
      `${name} is one document; write ${tokenizer.idToToken(endOfTextId)} between documents to pack them, or leave --packing out`,
    );
  return { training, validation: documentsIn(tokens.validation, endOfTextId, context) };
}

/** How long the corpus is, and what characters it has where that is the tokenizer. */
export async function survey(
  corpus: Corpus,
  { tokenizer }: TrainOptions,
  signal: AbortSignal,
): Promise<{ size: CorpusSize; alphabet: string }> {
  const characters = new Set<string>();
  const size = await measureCorpus(corpus, {
    signal,
    ...(tokenizer === "characters" && {
      onPart: (text: string) => {
        for (const character of text) characters.add(character);
      },
    }),
  });
  return { size, alphabet: [...characters].join("") };
}

/** Characters from which bpe learns its tokens; what comes after them in a larger corpus is tokenized, not learned from. */
const tokenizerSample = 2 ** 26;

export async function makeTokenizer(
  { tokenizer: recipe }: DecoderSystem,
  { tokenizer, vocabSize }: TrainOptions,
  corpus: Corpus,
  alphabet: string,
  onMessage: TrainControl["onMessage"],
): Promise<Tokenizer> {
  if (tokenizer === "characters") return characterTokenizer(alphabet);
  if (tokenizer !== "bpe") return loadTokenizer(tokenizer);
  return trainTokenizer(recipe, sampleOf(corpus, onMessage), vocabSize);
}

function* sampleOf(corpus: Corpus, onMessage: TrainControl["onMessage"]): Generator<string> {
  let characters = 0;
  for (const part of corpus.parts()) {
    if (characters > tokenizerSample) {
      onMessage?.(`tokenizer: learned from the first ${count(characters)} characters`, { characters });
      return;
    }
    characters += part.length;
    yield part;
  }
}

export async function tokenize(
  folder: string,
  corpus: Corpus,
  size: CorpusSize,
  tokenizer: Tokenizer,
  options: TrainOptions,
  signal: AbortSignal,
  onTokenized: TrainControl["onTokenized"],
): Promise<void> {
  await tokenizeCorpus(folder, corpus, size, {
    encode: (text) => tokenizer.encode(text),
    vocabSize: tokenizer.vocabSize,
    endOfText: tokenizer.endOfTextId,
    heldOut: options.validation,
    signal,
    onProgress: (characters) => onTokenized?.(characters, size.characters),
  });
}
