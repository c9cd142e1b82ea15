import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
// Not by the room's index, which reads files: pages pretrain, too.
import { MixedSource, mixingRates } from "../data/mixing.js";
import { type TextPair, pairBatch, pairLengths, pairsOnce } from "../data/pairs.js";
import type { EncoderDecoder } from "../nn/index.js";
import { sentinelsOf } from "../tokenizers/index.js";
import { type Noise, type Sentences, bartNoise } from "./denoising.js";
import { type MassOptions, massRow } from "./mass.js";
import {
  type LanguageCorpus,
  type Pretraining,
  type PretrainingOptions,
  encodeDocuments,
  wholeNetwork,
} from "./pretraining.js";
import type { Document } from "./sentences.js";
import { sequenceToSequenceObjective } from "./sequence-to-sequence.js";
import {
  type SpanCorruptionOptions,
  corruptSpans,
  spanCorruptionLengths,
  spanCounts,
} from "./span-corruption.js";
import type { MaskingVocabulary } from "./vocabulary.js";

// What encoder-decoders learn from texts without translations or summaries: a text that was damaged, and what it was.
// Languages stand side by side in a batch, each sampled by its share of the text to a power (Xue et al. 2021, section 3.2).

/** An encoder-decoder that is to learn, as its system made it. */
export interface SequenceNetwork {
  readonly model: EncoderDecoder;
  /** Its `config.json`. */
  readonly config: Readonly<Record<string, unknown>>;
}

/** How texts become examples, and an example what the network reads and writes. */
interface Damage<Example> {
  readonly examplesOf: (documents: readonly Document[]) => readonly Example[];
  readonly transform: (example: Example, random: Random) => TextPair;
  /** Whether pairs say where the tokens of the decoder stand. */
  readonly positions?: boolean;
}

/** Rows of a held-out batch times the longest of them. */
const heldOutTokens = 4096;

function prepare<Example>(
  options: PretrainingOptions,
  { model, config }: SequenceNetwork,
  { examplesOf, transform, positions = false }: Damage<Example>,
  usualExponent: number,
): Pretraining {
  const { tokenizer, training, heldOut, seed, batchSize, exponent = usualExponent } = options;
  const batch = { padId: model.config.padTokenId, startId: model.config.decoderStartTokenId };
  const encoded = ({ documents }: LanguageCorpus) => encodeDocuments(tokenizer, documents);
  const texts = training.languages.map((language) => {
    const documents = encoded(language);
    const examples = examplesOf(documents);
    if (examples.length === 0)
      throw new LineageError(
        "data",
        `${language.name === "" ? "the text" : `the text of ${language.name}`} is too short for one example; use more text or shorter rows`,
      );
    return { examples, tokens: documents.flat().reduce((sum, { length }) => sum + length, 0) };
  });
  const rates = mixingRates(
    texts.map(({ tokens }) => tokens),
    { exponent },
  );
  return {
    model,
    objective: sequenceToSequenceObjective(model, { positions }),
    source: new MixedSource({
      parts: texts.map(({ examples }, part) => ({ examples, rate: rates[part]! })),
      seed,
      batchSize,
      transform,
      ...pairLengths,
      collate: (rows) => pairBatch(rows, batch),
    }),
    heldOut: () => {
      const random = new Random(seed).fork("held out");
      const examples = heldOut.languages.flatMap((language) => examplesOf(encoded(language)));
      const rows = examples.map((example, index) => transform(example, random.fork(index)));
      return pairsOnce(rows, { ...batch, maxTokens: heldOutTokens, batchSize });
    },
    networks: [wholeNetwork(model, config)],
  };
}

/** The id of a token that a system or its objective needs. Throws `tokenizer` where there is none. */
export function needToken(id: number | undefined, what: string): number {
  if (id === undefined)
    throw new LineageError(
      "tokenizer",
      `the tokenizer has no ${what}, which this objective needs; leave --tokenizer out to learn one that has`,
    );
  return id;
}

// ---- T5 and mT5 ---------------------------------------------------------------------------------------------------

/**
 * Span corruption over the running text of a language, cut so that a damaged row fills the context. Raffel et al. 2020,
 * section 3.1.4. Throws `tokenizer` where the tokenizer has no sentinels, or fewer than a row needs.
 */
export function spanPretraining(
  options: PretrainingOptions,
  network: SequenceNetwork,
  { exponent = 1, ...spans }: SpanCorruptionOptions & { readonly exponent?: number } = {},
): Pretraining {
  const { tokenizer, contextLength } = options;
  const sentinels = sentinelsOf(tokenizer);
  const { textLength } = spanCorruptionLengths(contextLength, spans);
  const needed = spanCounts(textLength, spans).spans;
  if (sentinels.length < needed)
    throw new LineageError(
      "tokenizer",
      `rows of ${contextLength} tokens have ${needed} hidden spans, but the tokenizer has ${sentinels.length === 0 ? "no sentinels (<extra_id_0>, …)" : `${sentinels.length} sentinels`}; ` +
        "leave --tokenizer out to learn one that has, or use shorter rows",
    );
  const endId = needToken(tokenizer.eosId, "token that ends a text");
  return prepare<readonly number[]>(
    options,
    network,
    {
      examplesOf: (documents) => pieces(documents.flat(2), textLength).filter(({ length }) => length > 1),
      transform: (ids, random) => {
        const { inputIds, targetIds } = corruptSpans(ids, sentinels, spans, random);
        return { source: [...inputIds, endId], target: [...targetIds, endId] };
      },
    },
    exponent,
  );
}

const pieces = <T>(items: readonly T[], size: number): T[][] =>
  Array.from({ length: Math.ceil(items.length / size) }, (_, index) =>
    items.slice(index * size, (index + 1) * size),
  );

// ---- BART ---------------------------------------------------------------------------------------------------------

/**
 * Whole sentences, as many as fit, damaged by noise; the network writes them as they were. Lewis et al. 2020, section 2.2.
 * Throws `tokenizer` where the tokenizer lacks a mask or the tokens around a text.
 * @param noise Default: `bartNoise`
 */
export function denoisingPretraining(
  options: PretrainingOptions,
  network: SequenceNetwork,
  noise?: (maskId: number) => Noise,
): Pretraining {
  const { tokenizer, contextLength } = options;
  const damage = (noise ?? bartNoise)(needToken(tokenizer.maskId, "mask"));
  const [beginId, endId] = [
    needToken(tokenizer.bosId, "token that begins a text"),
    needToken(tokenizer.eosId, "token that ends a text"),
  ];
  const room = contextLength - 2;
  const framed = (ids: readonly number[]) => [beginId, ...ids, endId];
  return prepare<Sentences>(
    options,
    network,
    {
      examplesOf: (documents) => documents.flatMap((document) => sentenceRows(document, room)),
      transform: (sentences, random) => ({
        // Masks that hide nothing may make a very short row longer.
        source: framed(damage(sentences, random).flat().slice(0, room)),
        target: framed(sentences.flat()),
      }),
    },
    1,
  );
}

/** Neighbouring sentences of a document in rows of at most `room` tokens; a longer sentence is cut into several. */
function sentenceRows(document: Document, room: number): Sentences[] {
  const rows: (readonly number[])[][] = [];
  let left = 0;
  for (const sentence of document.flatMap((ids) => pieces(ids, room))) {
    if (rows.length === 0 || sentence.length > left) {
      rows.push([]);
      left = room;
    }
    rows.at(-1)!.push(sentence);
    left -= sentence.length;
  }
  return rows;
}

// ---- MASS ---------------------------------------------------------------------------------------------------------

/**
 * Half of a sentence behind masks, which the decoder writes at its places. Song et al. 2019, section 3.2. Throws `tokenizer`
 * where the tokenizer lacks a mask or an end of a text.
 */
export function massPretraining(
  options: PretrainingOptions,
  network: SequenceNetwork,
  mass: MassOptions = {},
): Pretraining {
  const { tokenizer, contextLength } = options;
  const vocabulary: MaskingVocabulary = {
    size: tokenizer.vocabSize,
    maskId: needToken(tokenizer.maskId, "mask"),
    specialIds: new Set(
      Array.from({ length: tokenizer.vocabSize }, (_, id) => id).filter(
        (id) => tokenizer.isSpecial(id) || tokenizer.idToToken(id) === undefined,
      ),
    ),
  };
  const endId = needToken(tokenizer.eosId, "token that ends a text");
  const { decoderStartTokenId } = network.model.config;
  return prepare<readonly number[]>(
    options,
    network,
    {
      examplesOf: (documents) => documents.flat().flatMap((sentence) => pieces(sentence, contextLength - 1)),
      transform: (ids, random) => {
        const row = massRow(ids, vocabulary, decoderStartTokenId, mass, random);
        return {
          source: [...row.encoderIds, endId],
          target: row.labels,
          decoder: { ids: row.decoderIds, positions: row.decoderPositions },
        };
      },
      positions: true,
    },
    1,
  );
}
