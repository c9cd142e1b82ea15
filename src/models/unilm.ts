import { z } from "zod";
import { type Tensor, input, compile } from "../graph/index.js";
import {
  type ActivationName,
  Encoder,
  EncoderEmbeddings,
  type EncoderInputs,
  EncoderLayers,
  EncoderWithHead,
  type ForwardContext,
  Linear,
  MaskedLmHead,
  Module,
  PooledHead,
  Pooler,
  type Weights,
  attentionMaskOf,
  bertEntries,
  checkHeads,
  configEntries,
  fromBertEntries,
  normalInit,
  parseConfig,
  statesAt,
  toBertEntries,
} from "../nn/index.js";
import {
  type PretrainingRow,
  maskedBatch,
  type MaskingVocabulary,
  type SentenceVocabulary,
  unilmRow,
  unilmSegmentCount,
} from "../objectives/index.js";
import type { Program } from "../runtime/types.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/**
 * UniLM, Dong et al. 2019, "Unified Language Model Pre-training for Natural Language Understanding and Generation": BERT's
 * network, under four masks that tell which words a word is predicted from.
 */
export interface UnilmConfig {
  readonly vocabSize: number;
  /** Positions that the model knows. */
  readonly contextLength: number;
  /** Segments that it tells apart; each mode has its own. */
  readonly typeVocabSize: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  /** Width of the feed-forward layer. Published: 4 hiddenSize. */
  readonly intermediateSize: number;
  readonly activation: ActivationName;
  /** Probability of dropout after the embeddings and before each residual sum. */
  readonly hiddenDropout: number;
  /** Probability of dropout of the attention probabilities. */
  readonly attentionDropout: number;
  /** Probability of dropout before a task's classifier. */
  readonly classifierDropout: number;
  readonly layerNormEpsilon: number;
  /** Standard deviation of the first weights. */
  readonly initializerRange: number;
  readonly padTokenId: number;
}

/** A configuration with UniLM's published choices where `sizes` makes none. Throws `config` for one that contradicts itself. */
export function unilmConfig(
  sizes: Partial<UnilmConfig> & Pick<UnilmConfig, "hiddenSize" | "numLayers" | "numHeads">,
): UnilmConfig {
  const config: UnilmConfig = {
    vocabSize: 28_996,
    contextLength: 512,
    typeVocabSize: unilmSegmentCount,
    intermediateSize: 4 * sizes.hiddenSize,
    activation: "gelu",
    hiddenDropout: 0.1,
    attentionDropout: 0.1,
    classifierDropout: sizes.hiddenDropout ?? 0.1,
    layerNormEpsilon: 1e-12,
    initializerRange: 0.02,
    padTokenId: 0,
    ...sizes,
  };
  checkHeads(config);
  return config;
}

/** The two published sizes; section 2.3 has the large one. */
export const unilmSizes = {
  "unilm1-base-cased": unilmConfig({ hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "unilm1-large-cased": unilmConfig({ hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
} as const;

const { size } = configEntries;
const huggingFaceConfig = z.object({
  ...bertEntries,
  model_type: z.literal("bert").default("bert"),
  vocab_size: size,
  type_vocab_size: z.int().min(unilmSegmentCount),
  hidden_size: size,
  num_hidden_layers: size,
  num_attention_heads: size,
  intermediate_size: size,
});

/**
 * The configuration in a UniLM's `config.json`, which is that of a BERT with six segments. Throws `config` saying which
 * entry is wrong.
 */
export const unilmFromHuggingFace = (json: unknown): UnilmConfig =>
  unilmConfig(fromBertEntries(parseConfig(huggingFaceConfig, json, "UniLM")));

/** A `config.json` that Hugging Face transformers reads as a BERT's, whose network and names these are. */
export const unilmToHuggingFace = (config: UnilmConfig): Record<string, unknown> => ({
  model_type: "bert",
  ...toBertEntries(config),
});

// ---- Model --------------------------------------------------------------------------------------------------------

/**
 * The network, section 2.2. Which mode it is in, the inputs alone say: the mask `[batch, sequence, sequence]` adds minus
 * infinity to the scores that a mode forbids (equations 2 and 3), and the segments are the mode's (`unilmRow` makes both).
 */
export class Unilm extends Encoder {
  static override readonly names = { layers: "encoder" };
  readonly embeddings: EncoderEmbeddings;
  readonly layers: EncoderLayers;
  readonly pooler: Pooler;

  constructor(readonly config: UnilmConfig) {
    super();
    this.embeddings = new EncoderEmbeddings({
      ...config,
      embeddingSize: config.hiddenSize,
      positions: config.contextLength,
    });
    this.layers = new EncoderLayers(config);
    this.pooler = new Pooler(config);
  }

  override forward(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    const attentionMask = attentionMaskOf(inputs);
    return this.layers.forward(this.embeddings.forward(inputs, context), { ...context, attentionMask });
  }
}

// ---- Heads --------------------------------------------------------------------------------------------------------

class UnilmPredictions extends MaskedLmHead {
  static override readonly names = { dense: "transform.dense", norm: "transform.LayerNorm" };
}

/** The heads of pretraining, section 2.3: the hidden words of every mode, and the next sentence of the bidirectional one. */
export class UnilmPretrainingHeads extends Module {
  static override readonly names = { nextSentence: "seq_relationship" };
  readonly predictions: UnilmPredictions;
  readonly nextSentence: Linear;

  constructor(private readonly unilm: Unilm) {
    super();
    const { config } = unilm;
    this.predictions = new UnilmPredictions(
      { ...config, embeddingSize: config.hiddenSize },
      unilm.embeddings.token.weight.tensor,
    );
    this.nextSentence = new Linear(config.hiddenSize, 2, {
      initializer: normalInit(config.initializerRange),
    });
  }

  /** Logits `[batch, sequence, vocabSize]` of hidden words. */
  override forward(hidden: Tensor): Tensor {
    return this.predictions.forward(hidden);
  }

  /** Logits `[batch, 2]`: 0 says that the second segment follows the first. */
  nextSentenceLogits(hidden: Tensor): Tensor {
    return this.nextSentence.forward(this.unilm.pooler.forward(hidden));
  }
}

/** UniLM as it is pretrained, and fine-tuned for generation: logits `[batch, sequence, vocabSize]`. */
export function unilmForPretraining(config: UnilmConfig) {
  const unilm = new Unilm(config);
  return new EncoderWithHead(unilm, new UnilmPretrainingHeads(unilm), { encoder: "bert", head: "cls" });
}

/** A class, or a number, for each sequence or pair, under the bidirectional mask: logits `[batch, numLabels]`. Section 2.4. */
export function unilmForSequenceClassification(config: UnilmConfig, numLabels: number) {
  const unilm = new Unilm(config);
  const head = new PooledHead(config, numLabels, (hidden) => unilm.pooler.forward(hidden));
  return new EncoderWithHead(unilm, head, { encoder: "bert", head: "" });
}

// ---- Generation ---------------------------------------------------------------------------------------------------

/** What a generator has to know of the vocabulary. */
export type GenerationVocabulary = Pick<SentenceVocabulary, "classId" | "separatorId" | "paddingId"> &
  Pick<MaskingVocabulary, "maskId" | "specialIds">;

/**
 * Text by a model fine-tuned for generation, section 2.4: the source is given, and word after word a mask is put behind what
 * has been written, whose likeliest word takes its place, until the model ends the target.
 */
export class UnilmGenerator implements Disposable {
  private constructor(
    private readonly program: Program,
    private readonly weights: Weights,
    private readonly vocabulary: GenerationVocabulary,
    private readonly contextLength: number,
  ) {}

  static async create(
    model: ReturnType<typeof unilmForPretraining>,
    weights: Weights,
    vocabulary: GenerationVocabulary,
  ): Promise<UnilmGenerator> {
    const tokens = ["batch", "sequence"];
    const inputs = {
      inputIds: input("inputIds", "int32", tokens),
      tokenTypeIds: input("tokenTypeIds", "int32", tokens),
      attentionMask: input("attentionMask", "bool", ["batch", "sequence", "sequence"]),
    };
    const hidden = model.encoder.encode(inputs);
    const logits = model.head.forward(statesAt(hidden, input("maskedPositions", "int32", ["masked"])));
    const program = await compile(weights.runtime, { logits }, { name: "generation" });
    return new UnilmGenerator(program, weights, vocabulary, model.encoder.config.contextLength);
  }

  /** The target of each source, without special tokens; at most `maxNewTokens` of them. */
  async generate(
    sources: readonly (readonly number[])[],
    { maxNewTokens }: { readonly maxNewTokens: number },
  ): Promise<number[][]> {
    const targets = sources.map((): number[] => []);
    let open = sources.map((_, index) => index);
    for (let step = 0; step < maxNewTokens; step++) {
      // Source, target and three special tokens, the mask among them.
      open = open.filter(
        (index) => sources[index]!.length + targets[index]!.length + 3 <= this.contextLength,
      );
      if (open.length === 0) break;
      const rows = open.map((index) => this.row(sources[index]!, targets[index]!));
      const next = await this.likeliest(rows);
      open.forEach((index, row) => {
        if (next[row] !== this.vocabulary.separatorId) targets[index]!.push(next[row]!);
      });
      open = open.filter((_, row) => next[row] !== this.vocabulary.separatorId);
    }
    return targets;
  }

  private row(source: readonly number[], written: readonly number[]): PretrainingRow {
    const row = unilmRow("sequence-to-sequence", this.vocabulary, source, [
      ...written,
      this.vocabulary.maskId,
    ]);
    return { ...row, ids: row.ids.slice(0, -1), typeIds: row.typeIds.slice(0, -1) };
  }

  private async likeliest(rows: readonly PretrainingRow[]): Promise<number[]> {
    const { tensors } = maskedBatch(
      rows.map((row) => {
        const last = row.ids.length - 1;
        const none = Int32Array.of(0);
        return {
          ...row,
          inputIds: Int32Array.from(row.ids),
          positions: Int32Array.of(last),
          labels: none,
        };
      }),
      this.vocabulary.paddingId,
    );
    const { runtime } = this.weights;
    const given = Object.fromEntries(
      this.program.inputs
        .filter(({ name }) => tensors[name] !== undefined)
        .map(({ name, dtype }) => [
          name,
          runtime.createTensor(dtype, tensors[name]!.shape, tensors[name]!.data as never),
        ]),
    );
    const { logits } = await this.program.run({ ...this.weights.tensors, ...given });
    const scores = (await logits!.read()) as Float32Array;
    for (const tensor of [logits!, ...Object.values(given)]) tensor.dispose();
    const size = scores.length / rows.length;
    return rows.map((_, row) => this.best(scores.subarray(row * size, (row + 1) * size)));
  }

  private best(scores: Float32Array): number {
    const { separatorId, specialIds } = this.vocabulary;
    let best = separatorId;
    scores.forEach((score, id) => {
      if (score > scores[best]! && !specialIds.has(id)) best = id;
    });
    return best;
  }

  dispose(): void {
    this.program.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
