import { z } from "zod";
import { ShapeError } from "../base/errors.js";
import {
  type Dim,
  type Tensor,
  addDims,
  attention,
  cast,
  clip,
  concat,
  constant,
  cos,
  equal,
  flip,
  gatherElements,
  greater,
  linear,
  linearTokenLosses,
  logicalNot,
  logicalOr,
  matmul,
  ones,
  range,
  sin,
  squeeze,
  stack,
  stopGradient,
  subtractDims,
  unsqueeze,
  zeros,
} from "../graph/index.js";
import {
  type ActivationName,
  ChoiceHead,
  Dropout,
  Embedding,
  Encoder,
  type EncoderInputs,
  EncoderWithHead,
  type ForwardContext,
  LayerNorm,
  Linear,
  Module,
  Parameter,
  SpanHead,
  TokenHead,
  activations,
  checkHeads,
  configEntries,
  mergeHeads,
  normalInit,
  parseConfig,
  splitHeads,
  zerosInit,
} from "../nn/index.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/** XLNet, Yang et al. 2019, "XLNet: Generalized Autoregressive Pretraining for Language Understanding". */
export interface XlnetConfig {
  readonly vocabSize: number;
  /** Longest sequence that it is trained on; relative positions know no limit of their own. */
  readonly contextLength: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  /** Width of the feed-forward layer. Published: 4 hiddenSize. */
  readonly intermediateSize: number;
  readonly activation: ActivationName;
  readonly dropout: number;
  readonly layerNormEpsilon: number;
  /** Standard deviation of the first weights. */
  readonly initializerRange: number;
  /** States of earlier text that each layer keeps; 0 keeps all. Published for pretraining: 384. */
  readonly memoryLength: number;
  /** Tokens at the beginning of a segment that become memory; 0 takes all. Published for pretraining: 256. */
  readonly reuseLength: number;
  /** Largest distance that relative positions tell apart; 0 for no limit. */
  readonly clampLength: number;
  /**
   * Whether the second half of a batch's rows is read in the other direction, as the bidirectional data of pretraining has
   * it (the odd row forwards). What a row means then depends on its place in the batch: published models are used without.
   */
  readonly bidirectionalData: boolean;
  readonly padTokenId: number;
}

/** A configuration with XLNet's published choices where `sizes` makes none. Throws `config` for one that contradicts itself. */
export function xlnetConfig(
  sizes: Partial<XlnetConfig> & Pick<XlnetConfig, "hiddenSize" | "numLayers" | "numHeads">,
): XlnetConfig {
  const config: XlnetConfig = {
    vocabSize: 32_000,
    contextLength: 512,
    intermediateSize: 4 * sizes.hiddenSize,
    activation: "gelu",
    dropout: 0.1,
    layerNormEpsilon: 1e-12,
    initializerRange: 0.02,
    memoryLength: 0,
    reuseLength: 0,
    clampLength: 0,
    bidirectionalData: false,
    padTokenId: 5,
    ...sizes,
  };
  checkHeads(config);
  return config;
}

/** The two published sizes, appendix A.4. */
export const xlnetSizes = {
  "xlnet-base-cased": xlnetConfig({ hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "xlnet-large-cased": xlnetConfig({ hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
} as const;

const { size, activation, dropout, epsilon } = configEntries;
const length = z.int().nullish();
const huggingFaceConfig = z.object({
  model_type: z.literal("xlnet"),
  vocab_size: size.default(32_000),
  context_length: size.default(512),
  d_model: size.default(1024),
  n_layer: size.default(24),
  n_head: size.default(16),
  d_inner: size.default(4096),
  ff_activation: activation.default("gelu"),
  dropout: dropout.default(0.1),
  layer_norm_eps: epsilon.default(1e-12),
  initializer_range: z.number().positive().default(0.02),
  mem_len: length.default(512),
  reuse_len: length,
  clamp_len: z.int().default(-1),
  attn_type: z.literal("bi").default("bi"),
  bi_data: z.boolean().default(false),
  pad_token_id: z.int().nonnegative().nullish(),
});

/** The configuration in a `config.json` of Hugging Face transformers. Throws `config` saying which entry is wrong. */
export function xlnetFromHuggingFace(json: unknown): XlnetConfig {
  const config = parseConfig(huggingFaceConfig, json, "XLNet");
  return xlnetConfig({
    vocabSize: config.vocab_size,
    contextLength: config.context_length,
    hiddenSize: config.d_model,
    numLayers: config.n_layer,
    numHeads: config.n_head,
    intermediateSize: config.d_inner,
    activation: config.ff_activation,
    dropout: config.dropout,
    layerNormEpsilon: config.layer_norm_eps,
    initializerRange: config.initializer_range,
    memoryLength: config.mem_len ?? 0,
    reuseLength: config.reuse_len ?? 0,
    clampLength: Math.max(0, config.clamp_len),
    bidirectionalData: config.bi_data,
    padTokenId: config.pad_token_id ?? 5,
  });
}

/** The `config.json` that Hugging Face transformers reads. */
export const xlnetToHuggingFace = (config: XlnetConfig): Record<string, unknown> => ({
  model_type: "xlnet",
  vocab_size: config.vocabSize,
  // transformers refuses the usual name, since relative positions have no end.
  context_length: config.contextLength,
  d_model: config.hiddenSize,
  n_layer: config.numLayers,
  n_head: config.numHeads,
  d_inner: config.intermediateSize,
  ff_activation: config.activation,
  dropout: config.dropout,
  layer_norm_eps: config.layerNormEpsilon,
  initializer_range: config.initializerRange,
  mem_len: config.memoryLength === 0 ? null : config.memoryLength,
  reuse_len: config.reuseLength === 0 ? null : config.reuseLength,
  clamp_len: config.clampLength === 0 ? -1 : config.clampLength,
  attn_type: "bi",
  bi_data: config.bidirectionalData,
  untie_r: true,
  same_length: false,
  summary_type: "last",
  summary_use_proj: true,
  summary_activation: "tanh",
  pad_token_id: config.padTokenId,
});

// ---- Parts --------------------------------------------------------------------------------------------------------

/** How the rows of one stream stand to the keys. `T` rows, `K` keys: memory first, then the segment. */
interface Relation {
  /** Encodings of every distance that occurs, from `K` down, `[directions, distances, hiddenSize]`. */
  readonly distances: Tensor;
  /** Which of two directions each row of the batch is read in, int32 `[batch]`. */
  readonly direction: Tensor | undefined;
  /** Scores by distance `[batch, numHeads, T, distances]` as scores by key `[batch, numHeads, T, K]`. */
  readonly byKey: (scores: Tensor) => Tensor;
  /** 1 where row and key belong to different segments, `[batch, 1, T, K]`. */
  readonly differs: Tensor | undefined;
  /** Bool `[batch, 1, T, K]`. */
  readonly visible: Tensor | undefined;
}

/** Attention by content, relative position and relative segment, section 2.4 and 2.5; a residual sum and a norm. */
class XlnetAttention extends Module {
  static override readonly names = {
    query: "q",
    key: "k",
    value: "v",
    output: "o",
    position: "r",
    contentBias: "r_w_bias",
    positionBias: "r_r_bias",
    segmentBias: "r_s_bias",
    segments: "seg_embed",
    norm: "layer_norm",
  };
  readonly query: Parameter;
  readonly key: Parameter;
  readonly value: Parameter;
  readonly output: Parameter;
  readonly position: Parameter;
  readonly positionBias: Parameter;
  readonly segmentBias: Parameter;
  readonly contentBias: Parameter;
  readonly segments: Parameter;
  readonly norm: LayerNorm;
  private readonly dropout: Dropout;

  constructor(private readonly config: XlnetConfig) {
    super();
    const { hiddenSize, numHeads, initializerRange } = config;
    const headSize = hiddenSize / numHeads;
    const parameter = (...shape: number[]) => new Parameter(shape, normalInit(initializerRange));
    this.query = parameter(hiddenSize, numHeads, headSize);
    this.key = parameter(hiddenSize, numHeads, headSize);
    this.value = parameter(hiddenSize, numHeads, headSize);
    this.output = parameter(hiddenSize, numHeads, headSize);
    this.position = parameter(hiddenSize, numHeads, headSize);
    this.positionBias = parameter(numHeads, headSize);
    this.segmentBias = parameter(numHeads, headSize);
    this.contentBias = parameter(numHeads, headSize);
    this.segments = parameter(2, numHeads, headSize);
    this.norm = new LayerNorm(hiddenSize, config.layerNormEpsilon);
    this.dropout = new Dropout(config.dropout);
  }

  /** Rows `[batch, T, hiddenSize]` that look at `content` `[batch, K, hiddenSize]`. */
  override forward(rows: Tensor, content: Tensor, relation: Relation, context: ForwardContext): Tensor {
    const { hiddenSize, numHeads, dropout } = this.config;
    const headSize = hiddenSize / numHeads;
    const heads = (x: Tensor, weight: Parameter): Tensor =>
      splitHeads(matmul(x, weight.tensor.reshape([hiddenSize, hiddenSize])), numHeads);
    const biased = (x: Tensor, bias: Parameter): Tensor =>
      x.add(bias.tensor.reshape([numHeads, 1, headSize]));

    const query = heads(rows, this.query);
    const ways = heads(relation.distances, this.position);
    const distances = relation.direction ? ways.gather(relation.direction, 0) : squeeze(ways, 0);
    const byDistance = matmul(biased(query, this.positionBias), distances, { transposeB: true });
    let bias = relation.byKey(byDistance);
    if (relation.differs) {
      const both = this.segments.tensor.transpose([1, 0, 2]);
      const [same, different] = matmul(biased(query, this.segmentBias), both, { transposeB: true }).split(2);
      bias = bias.add(same!).add(relation.differs.mul(different!.sub(same!)));
    }
    const mixed = attention(
      biased(query, this.contentBias),
      heads(content, this.key),
      heads(content, this.value),
      {
        bias: bias.mul(1 / Math.sqrt(headSize)),
        dropout,
        random: context.random,
        ...(relation.visible && { mask: relation.visible }),
      },
    );
    const projected = matmul(mergeHeads(mixed), this.output.tensor.reshape([hiddenSize, hiddenSize]), {
      transposeB: true,
    });
    return this.norm.forward(this.dropout.forward(projected, context.random).add(rows));
  }
}

/** Feed-forward network, a residual sum and a norm; `[..., hiddenSize]` in and out. */
class XlnetFeedForward extends Module {
  static override readonly names = { norm: "layer_norm", up: "layer_1", down: "layer_2" };
  readonly norm: LayerNorm;
  readonly up: Linear;
  readonly down: Linear;
  private readonly dropout: Dropout;

  constructor(private readonly config: XlnetConfig) {
    super();
    const { hiddenSize, intermediateSize, initializerRange } = config;
    const options = { initializer: normalInit(initializerRange) };
    this.norm = new LayerNorm(hiddenSize, config.layerNormEpsilon);
    this.up = new Linear(hiddenSize, intermediateSize, options);
    this.down = new Linear(intermediateSize, hiddenSize, options);
    this.dropout = new Dropout(config.dropout);
  }

  override forward(x: Tensor, { random }: ForwardContext): Tensor {
    const hidden = this.dropout.forward(activations[this.config.activation](this.up.forward(x)), random);
    return this.norm.forward(this.dropout.forward(this.down.forward(hidden), random).add(x));
  }
}

/** One layer, whose weights both streams share, section 2.3 and figure 1. */
class XlnetLayer extends Module {
  static override readonly names = { attention: "rel_attn", feedForward: "ff" };
  readonly attention: XlnetAttention;
  readonly feedForward: XlnetFeedForward;

  constructor(config: XlnetConfig) {
    super();
    this.attention = new XlnetAttention(config);
    this.feedForward = new XlnetFeedForward(config);
  }

  override forward(rows: Tensor, content: Tensor, relation: Relation, context: ForwardContext): Tensor {
    return this.feedForward.forward(this.attention.forward(rows, content, relation, context), context);
  }
}

// ---- Model --------------------------------------------------------------------------------------------------------

export interface XlnetInputs extends EncoderInputs {
  /** States of earlier text by layer, `[batch, memory, hiddenSize]` each. */
  readonly memory?: readonly Tensor[] | undefined;
}

export interface XlnetStreamInputs {
  /** Int32 `[batch, sequence]`; the sequence is a number. */
  readonly inputIds: Tensor;
  readonly tokenTypeIds?: Tensor | undefined;
  /** Bool `[batch, sequence, sequence]`: whether the query stream at a place (second axis) sees the content at another. */
  readonly visible: Tensor;
  /** Int32 `[batch, targets]`: the places to predict. */
  readonly targets: Tensor;
  readonly memory?: readonly Tensor[] | undefined;
}

export interface XlnetStates {
  /** The last layer's states: of the content at every place, or of the query stream at the targets. */
  readonly hidden: Tensor;
  /** What the text leaves to the one that follows, by layer; no gradient flows through it. */
  readonly memory: readonly Tensor[];
}

/** XLNet's network. Rows are padded on the left: its class token is the last. */
export class Xlnet extends Encoder {
  static override readonly names = { token: "word_embedding", target: "mask_emb", layers: "layer" };
  readonly target: Parameter;
  readonly token: Embedding;
  readonly layers: readonly XlnetLayer[];
  private readonly dropout: Dropout;

  constructor(readonly config: XlnetConfig) {
    super();
    const initializer = normalInit(config.initializerRange);
    this.target = new Parameter([1, 1, config.hiddenSize], initializer);
    this.token = new Embedding(config.vocabSize, config.hiddenSize, initializer);
    this.layers = Array.from({ length: config.numLayers }, () => new XlnetLayer(config));
    this.dropout = new Dropout(config.dropout);
  }

  override forward(inputs: XlnetInputs, context: ForwardContext = {}): Tensor {
    return this.contentStates(inputs, context).hidden;
  }

  /** The content stream alone, as in fine-tuning, with what it leaves to the text that follows. */
  contentStates(
    { inputIds, tokenTypeIds, attentionMask, memory }: XlnetInputs,
    context: ForwardContext = {},
  ): XlnetStates {
    const mask = attentionMask?.rank === 2 ? unsqueeze(attentionMask, 1) : attentionMask;
    const relation = this.contentRelation(inputIds, tokenTypeIds, mask, memory, context);
    let content = this.dropout.forward(this.token.forward(inputIds), context.random);
    const left = this.layers.map((layer, index) => {
      const next = this.keep(content, memory?.[index]);
      content = layer.forward(content, withMemory(content, memory?.[index]), relation, context);
      return next;
    });
    return { hidden: this.dropout.forward(content, context.random), memory: left };
  }

  /**
   * Both streams, section 2.3: the content stream sees a token and those before it in the order, the query stream stands at
   * the targets, knows their places and not their tokens, and is what predicts them: hidden `[batch, targets, hiddenSize]`.
   */
  streams(
    { inputIds, tokenTypeIds, visible, targets, memory }: XlnetStreamInputs,
    context: ForwardContext = {},
  ): XlnetStates {
    const content = this.contentRelation(inputIds, tokenTypeIds, visible, memory, context);
    const query = this.targetRelation(content, inputIds, tokenTypeIds, visible, targets, memory);
    let h = this.dropout.forward(this.token.forward(inputIds), context.random);
    let g = this.dropout.forward(
      this.target.tensor.expand([...targets.shape, this.config.hiddenSize]),
      context.random,
    );
    const left = this.layers.map((layer, index) => {
      const next = this.keep(h, memory?.[index]);
      const seen = withMemory(h, memory?.[index]);
      g = layer.forward(g, seen, query, context);
      h = layer.forward(h, seen, content, context);
      return next;
    });
    return { hidden: this.dropout.forward(g, context.random), memory: left };
  }

  /** The first `reuseLength` states after those of the memory, of which the last `memoryLength` are kept. */
  private keep(content: Tensor, memory: Tensor | undefined): Tensor {
    const { reuseLength, memoryLength } = this.config;
    const reused = reuseLength > 0 ? content.slice(1, 0, reuseLength) : content;
    const all = memory ? concat([memory, reused], 1) : reused;
    const count = all.dim(1);
    const cut = memoryLength > 0 && typeof count === "number" && count > memoryLength;
    return stopGradient(cut ? all.slice(1, -memoryLength) : all);
  }

  private contentRelation(
    inputIds: Tensor,
    types: Tensor | undefined,
    visible: Tensor | undefined,
    memory: readonly Tensor[] | undefined,
    context: ForwardContext,
  ): Relation {
    const [batch, sequence] = inputIds.shape as [Dim, Dim];
    const keys = addDims(memory?.[0]?.dim(1) ?? 0, sequence);
    const differs = types && segmentDifference(types, types, memory);
    // The content at a place always sees itself.
    const places = range(sequence);
    const itself = equal(unsqueeze(places, 1), unsqueeze(places, 0));
    const mask = visible && seesMemory(logicalOr(visible, unsqueeze(itself, 0)), memory);
    return {
      distances: this.dropout.forward(this.distances(keys, sequence), context.random),
      direction: this.config.bidirectionalData ? secondHalf(batch) : undefined,
      byKey: (scores) => {
        // One column less shifts each row by one more: the key of row i at column j is at distance i - j.
        const [batch, heads, rows, distances] = scores.shape as [Dim, Dim, Dim, Dim];
        const turned = scores.reshape([batch, heads, distances, rows]).slice(2, 1);
        return turned.reshape([batch, heads, rows, subtractDims(distances, 1)]).slice(3, 0, keys);
      },
      differs: differs && unsqueeze(differs, 1),
      visible: mask && unsqueeze(mask, 1),
    };
  }

  private targetRelation(
    content: Relation,
    inputIds: Tensor,
    types: Tensor | undefined,
    visible: Tensor,
    targets: Tensor,
    memory: readonly Tensor[] | undefined,
  ): Relation {
    const [batch, sequence] = inputIds.shape as [Dim, Dim];
    const count = targets.dim(1);
    if (typeof sequence !== "number")
      throw new ShapeError(`XLNet's two streams need a sequence of known length, not ${inputIds.describe()}`);
    const keys = addDims(memory?.[0]?.dim(1) ?? 0, sequence);
    const flat = targets.add(unsqueeze(range(batch), 1).mul(sequence)).reshape([-1]);
    const at = (x: Tensor, ...last: Dim[]): Tensor =>
      x
        .reshape([-1, ...last])
        .gather(flat, 0)
        .reshape([batch, count, ...last]);
    const differs = types && segmentDifference(at(types), types, memory);
    // The key at column j of a target at place i is at distance i - j, whose encoding is number sequence - i + j.
    const numbers = unsqueeze(targets.mul(-1).add(sequence), 2).add(range(keys).reshape([1, 1, keys]));
    return {
      distances: content.distances,
      direction: content.direction,
      byKey: (scores) =>
        gatherElements(scores, unsqueeze(numbers, 1).expand([batch, scores.dim(1), count, keys])),
      differs: differs && unsqueeze(differs, 1),
      visible: unsqueeze(seesMemory(at(visible, sequence), memory), 1),
    };
  }

  /**
   * Sinusoids of the distances from `keys` down to one less than `sequence` below 0, `[directions, keys + sequence,
   * hiddenSize]`: those of the other direction are of the opposite distances.
   */
  private distances(keys: Dim, sequence: Dim): Tensor {
    const { hiddenSize, clampLength, bidirectionalData } = this.config;
    const before = flip(range(keys, "float32"), 0).add(1);
    const after = range(sequence, "float32").mul(-1);
    let distance = concat([before, after], 0);
    if (clampLength > 0) distance = clip(distance, -clampLength, clampLength);
    const half = hiddenSize / 2;
    const frequencies = constant(
      "float32",
      [1, half],
      Array.from({ length: half }, (_, index) => 10_000 ** ((-2 * index) / hiddenSize)),
    );
    const angles = matmul(unsqueeze(distance, 1), frequencies);
    const forwards = concat([sin(angles), cos(angles)], 1);
    return bidirectionalData
      ? stack([forwards, concat([sin(angles).mul(-1), cos(angles)], 1)])
      : unsqueeze(forwards, 0);
  }
}

/** 1 for the rows of the second half of a batch, 0 for the others, int32 `[batch]`. */
function secondHalf(batch: Dim): Tensor {
  const rows = range(batch);
  return cast(greater(rows, flip(rows, 0)), "int32");
}

const withMemory = (content: Tensor, memory: Tensor | undefined): Tensor =>
  memory ? concat([memory, content], 1) : content;

/** A mask over the segment, with the memory before it that everyone sees. */
function seesMemory(visible: Tensor, memory: readonly Tensor[] | undefined): Tensor {
  if (!memory) return visible;
  const before = ones([...visible.shape.slice(0, 2), memory[0]!.dim(1)], "bool");
  return concat([before, visible], 2);
}

/** 1 where row and key are of different segments, `[batch, rows, keys]`. Memory counts as segment 0. */
function segmentDifference(rows: Tensor, keys: Tensor, memory: readonly Tensor[] | undefined): Tensor {
  const all = memory ? concat([zeros([keys.dim(0), memory[0]!.dim(1)], keys.dtype), keys], 1) : keys;
  return cast(logicalNot(equal(unsqueeze(rows, 2), unsqueeze(all, 1))), "float32");
}

// ---- Heads --------------------------------------------------------------------------------------------------------

/** Logits by the token embeddings and a bias. */
export class XlnetLmHead extends Module {
  readonly bias: Parameter;

  constructor(private readonly xlnet: Xlnet) {
    super();
    this.bias = new Parameter([xlnet.config.vocabSize], zerosInit);
  }

  /** Logits `[..., vocabSize]` of states `[..., hiddenSize]`. */
  override forward(hidden: Tensor): Tensor {
    return linear(hidden, this.xlnet.token.weight.tensor, this.bias.tensor, { transposeWeight: true });
  }

  /** Cross-entropy of states `[..., hiddenSize]` under labels `[...]`, 0 where the label is -100. */
  losses(hidden: Tensor, labels: Tensor): Tensor {
    return linearTokenLosses(hidden, this.xlnet.token.weight.tensor, labels, { bias: this.bias.tensor });
  }
}

/** Permutation language modelling, equation 3: `encoder.streams` gives the states that `head` predicts from. */
export function xlnetForPretraining(config: XlnetConfig) {
  const xlnet = new Xlnet(config);
  return new EncoderWithHead(xlnet, new XlnetLmHead(xlnet), { encoder: "transformer", head: "lm_loss" });
}

/** What sequence tasks read: a tanh layer over the last token's state, the class token; logits `[batch, numLabels]`. */
class XlnetSummaryHead extends Module {
  static override readonly names = { summary: "sequence_summary.summary", classifier: "logits_proj" };
  readonly summary: Linear;
  readonly classifier: Linear;
  private readonly dropout: Dropout;

  constructor(config: XlnetConfig, numLabels: number) {
    super();
    const options = { initializer: normalInit(config.initializerRange) };
    this.summary = new Linear(config.hiddenSize, config.hiddenSize, options);
    this.classifier = new Linear(config.hiddenSize, numLabels, options);
    this.dropout = new Dropout(config.dropout);
  }

  override forward(hidden: Tensor, { random }: ForwardContext): Tensor {
    const last = squeeze(hidden.slice(1, -1), 1);
    return this.classifier.forward(this.dropout.forward(this.summary.forward(last).tanh(), random));
  }
}

/** A class, or a number, for each sequence or pair: logits `[batch, numLabels]`. */
export function xlnetForSequenceClassification(config: XlnetConfig, numLabels: number) {
  const head = new XlnetSummaryHead(config, numLabels);
  return new EncoderWithHead(new Xlnet(config), head, { encoder: "transformer", head: "" });
}

const headConfig = (config: XlnetConfig) => ({ ...config, classifierDropout: 0 });

/** A class for each token: logits `[batch, sequence, numLabels]`. */
export function xlnetForTokenClassification(config: XlnetConfig, numLabels: number) {
  const head = new TokenHead(headConfig(config), numLabels);
  return new EncoderWithHead(new Xlnet(config), head, { encoder: "transformer", head: "" });
}

/** Start and end of an answer: logits `[batch, sequence, 2]`. */
export function xlnetForQuestionAnswering(config: XlnetConfig) {
  const head = new SpanHead(config);
  return new EncoderWithHead(new Xlnet(config), head, { encoder: "transformer", head: "" });
}

/** A score for each choice: `[batch, choices, sequence]` -> `[batch, choices]`. */
export function xlnetForMultipleChoice(config: XlnetConfig) {
  const head = new ChoiceHead(new XlnetSummaryHead(config, 1));
  return new EncoderWithHead(new Xlnet(config), head, { encoder: "transformer", head: "" });
}
