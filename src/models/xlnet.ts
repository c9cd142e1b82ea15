import { z } from "zod";
import { LineageError, ShapeError } from "../base/errors.js";
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
  lessEqual,
  linear,
  linearTokenLosses,
  logicalAnd,
  logicalNot,
  logicalOr,
  matmul,
  observe,
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
  ChoiceHead,
  type Choices,
  type ConfigOf,
  Dropout,
  Embedding,
  Encoder,
  type EncoderInputs,
  EncoderWithHead,
  type Field,
  type ForwardContext,
  LayerNorm,
  Linear,
  Module,
  Parameter,
  activations,
  checkHeads,
  configEntries,
  configTable,
  entry,
  headOn,
  mergeHeads,
  normalInit,
  ownOutputEmbeddings,
  reasons,
  splitHeads,
  tokenHeads,
  zerosInit,
  throughLayer,
} from "../nn/index.js";
import type { Random } from "../base/random.js";
import {
  type BothWays,
  type Document,
  type Pretraining,
  type PretrainingOptions,
  type SentenceTokens,
  bothWaysBatch,
  documentsIn,
  permutationObjective,
  permutedSegment,
  sizesOf,
  sourceAndHeldOut,
  startsWithMark,
  vocabularyOf,
  wholeNetwork,
} from "../objectives/index.js";
import { defineSystem, depthByName, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { size, activation, dropout, epsilon, flag, positive } = configEntries;

/** A length that a file leaves out, or has as null or -1, where there is no limit; 0 here. */
const lengthField = (name: string, absent: number, none: null | -1): Field<number> => ({
  entries: [name],
  schema: z.int().nonnegative(),
  read: (json) => Math.max(0, entry(name, z.int(), { absent, null: 0 }).read(json, undefined)),
  write: (value) => ({ [name]: value === 0 ? none : value }),
  published: () => 0,
});

/** XLNet, Yang et al. 2019, "XLNet: Generalized Autoregressive Pretraining for Language Understanding". */
export const xlnetTable = configTable({
  type: "xlnet",
  title: "XLNet",
  fields: {
    vocabSize: entry("vocab_size", size, { absent: 32_000, aliases: ["n_token"] }),
    /**
     * Longest sequence that it is trained on; relative positions know no limit of their own. transformers refuses the usual
     * name of the entry, since they have no end.
     */
    contextLength: entry("context_length", size, { absent: 512 }),
    hiddenSize: entry("d_model", size, { absent: 1024, aliases: ["hidden_size"] }),
    numLayers: entry("n_layer", size, { absent: 24, aliases: ["num_hidden_layers"] }),
    numHeads: entry("n_head", size, { absent: 16, aliases: ["num_attention_heads"] }),
    /** Width of the feed-forward layer. Published: 4 hiddenSize. */
    intermediateSize: entry("d_inner", size, {
      absent: 4096,
      published: ({ hiddenSize }: { hiddenSize: number }) => 4 * hiddenSize,
    }),
    activation: entry("ff_activation", activation, { absent: "gelu" }),
    dropout: entry("dropout", dropout, { absent: 0.1 }),
    layerNormEpsilon: entry("layer_norm_eps", epsilon, { absent: 1e-12 }),
    /** Standard deviation of the first weights. */
    initializerRange: entry("initializer_range", positive, { absent: 0.02 }),
    /** States of earlier text that each layer keeps; 0 keeps all. Published for pretraining: 384. */
    memoryLength: lengthField("mem_len", 512, null),
    /** Tokens at the beginning of a segment that become memory; 0 takes all. Published for pretraining: 256. */
    reuseLength: lengthField("reuse_len", 0, null),
    /** Largest distance that relative positions tell apart; 0 for no limit. */
    clampLength: lengthField("clamp_len", -1, -1),
    /**
     * Whether the second half of a batch's rows is read in the other direction, as the bidirectional data of pretraining has
     * it (the odd row forwards). What a row means then depends on its place in the batch: published models are used without.
     */
    bidirectionalData: entry("bi_data", flag, { absent: false }),
    /** Whether every position sees the earlier ones alone, as a model of next words does. */
    causal: {
      entries: ["attn_type"],
      schema: flag,
      read: (json) =>
        entry("attn_type", z.enum(["bi", "uni"]), { absent: "bi" }).read(json, undefined) === "uni",
      write: (value) => ({ attn_type: value ? "uni" : "bi" }),
      published: () => false,
    } satisfies Field<boolean>,
    /** Probability of dropout of what a head about a sequence reads. */
    summaryDropout: entry("summary_last_dropout", dropout, { absent: 0.1 }),
    padTokenId: entry("pad_token_id", z.int().nonnegative(), { absent: 5 }),
    /** Whether words are predicted by the token embeddings, and not by a matrix of their own. */
    tieEmbeddings: entry("tie_word_embeddings", flag, { absent: true }),
  },
  implied: { d_head: ({ hiddenSize, numHeads }) => hiddenSize / numHeads },
  withoutEffect: {
    ...reasons("whether a call gives its memory back", ["use_mems_eval", "use_mems_train"]),
    ...reasons("of a head that searches for answers by beams, which lineage does not load", [
      "start_n_top",
      "end_n_top",
    ]),
  },
  // transformers gives every layer biases of its own, whatever untie_r says.
  only: { untie_r: [false], summary_first_dropout: [0] },
  fixed: {
    untie_r: true,
    same_length: false,
    summary_type: "last",
    summary_use_proj: true,
    summary_activation: "tanh",
  },
  check: checkHeads,
});

export type XlnetConfig = ConfigOf<typeof xlnetTable>;

/** A configuration with XLNet's published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const xlnetConfig = (choices: Choices<XlnetConfig>): XlnetConfig => xlnetTable.create(choices);

const published = publishedSize(xlnetTable);

/** The two published sizes, appendix A.4. */
export const xlnetSizes = {
  "xlnet-base-cased": published(116_750_336, { hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "xlnet-large-cased": published(360_300_800, { hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
} as const;

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
      observe("hidden", content);
      const next = this.keep(content, memory?.[index]);
      const x = content;
      content = throughLayer([x], context, () =>
        layer.forward(x, withMemory(x, memory?.[index]), relation, context),
      );
      return next;
    });
    observe("hidden", content);
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
    if (this.config.causal)
      throw new LineageError(
        "config",
        "XLNet's two streams go with attention in both directions, attn_type bi",
      );
    const content = this.contentRelation(inputIds, tokenTypeIds, visible, memory, context);
    const query = this.targetRelation(content, inputIds, tokenTypeIds, visible, targets, memory);
    let h = this.dropout.forward(this.token.forward(inputIds), context.random);
    let g = this.dropout.forward(
      this.target.tensor.expand([...targets.shape, this.config.hiddenSize]),
      context.random,
    );
    const left = this.layers.map((layer, index) => {
      for (const stream of [g, h]) observe("hidden", stream);
      const next = this.keep(h, memory?.[index]);
      const [x, y] = [g, h];
      [g, h] = throughLayer([x, y], context, () => {
        const seen = withMemory(y, memory?.[index]);
        return [layer.forward(x, seen, query, context), layer.forward(y, seen, content, context)] as const;
      });
      return next;
    });
    for (const stream of [g, h]) observe("hidden", stream);
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
    const seen = visible && logicalOr(visible, unsqueeze(itself, 0));
    const earlier = lessEqual(unsqueeze(places, 0), unsqueeze(places, 1)).expand([batch, sequence, sequence]);
    const allowed = !this.config.causal ? seen : seen ? logicalAnd(seen, earlier) : earlier;
    const mask = allowed && seesMemory(allowed, memory);
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
  static override readonly names = { decoder: "weight" };
  readonly bias: Parameter;
  readonly decoder: Parameter | undefined;

  constructor(private readonly xlnet: Xlnet) {
    super();
    this.bias = new Parameter([xlnet.config.vocabSize], zerosInit);
    this.decoder = ownOutputEmbeddings(xlnet.config, xlnet.config.hiddenSize);
  }

  /** Logits `[..., vocabSize]` of states `[..., hiddenSize]`. */
  override forward(hidden: Tensor): Tensor {
    return linear(hidden, this.outputEmbeddings, this.bias.tensor, { transposeWeight: true });
  }

  /** Cross-entropy of states `[..., hiddenSize]` under labels `[...]`, 0 where the label is -100. */
  losses(hidden: Tensor, labels: Tensor): Tensor {
    return linearTokenLosses(hidden, this.outputEmbeddings, labels, { bias: this.bias.tensor });
  }

  private get outputEmbeddings(): Tensor {
    return (this.decoder ?? this.xlnet.token.weight).tensor;
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
    this.dropout = new Dropout(config.summaryDropout);
  }

  override forward(hidden: Tensor, { random }: ForwardContext): Tensor {
    const last = squeeze(hidden.slice(1, -1), 1);
    return this.classifier.forward(this.dropout.forward(this.summary.forward(last).tanh(), random));
  }
}

const bare = (config: XlnetConfig) => new Xlnet(config);

const xlnetHeads = {
  "fill-mask": { create: xlnetForPretraining, className: "LMHeadModel" },
  classify: headOn(
    "transformer",
    bare,
    (_, config, numLabels) => new XlnetSummaryHead(config, numLabels),
    "logits_proj",
  ),
  ...tokenHeads("transformer", bare, () => 0),
  choice: headOn(
    "transformer",
    bare,
    (_, config) => new ChoiceHead(new XlnetSummaryHead(config, 1)),
    "logits_proj",
  ),
};

// ---- Pretraining --------------------------------------------------------------------------------------------------

const tokens: SentenceTokens = {
  first: "<cls>",
  separator: "<sep>",
  padding: "<pad>",
  mask: "<mask>",
  startsWord: startsWithMark,
};

/** Segments of a row, each with the memory of those before it. */
const xlnetSegments = 2;

/** A text both ways, and where a row of segments begins in either. */
interface BothTexts {
  readonly forwards: Int32Array;
  readonly backwards: Int32Array;
  readonly start: number;
}

/**
 * Yang et al. 2019, sections 2 and 3.1: permutation LM over consecutive segments, half of each reused as memory; half of the
 * rows of a batch read the text backwards.
 */
function pretrainXlnet(options: PretrainingOptions): Pretraining {
  const { tokenizer, contextLength, batchSize, seed, dropout } = options;
  if (batchSize % 2 !== 0)
    throw new LineageError(
      "argument",
      `XLNet reads half of each batch backwards: it needs an even number of rows, not ${batchSize}`,
    );
  const vocabulary = vocabularyOf(tokenizer, tokens);
  const reuseLength = Math.floor(contextLength / 2);
  const segments = { sequenceLength: contextLength, reuseLength };
  const config = xlnetConfig({
    ...sizesOf(options),
    dropout,
    reuseLength,
    memoryLength: Math.floor((contextLength * 3) / 4),
    bidirectionalData: true,
    padTokenId: vocabulary.paddingId,
  });
  const model = xlnetForPretraining(config);
  const stride = xlnetSegments * reuseLength;
  return {
    model,
    objective: permutationObjective(
      {
        model,
        segment: (inputs, context) => model.encoder.streams(inputs, context),
        losses: (hidden, labels) => model.head.losses(hidden, labels),
      },
      { ...segments, segments: xlnetSegments },
    ),
    ...sourceAndHeldOut(documentsIn(options), {
      batchSize: batchSize / 2,
      seed,
      examplesOf: (documents: readonly Document[]) => {
        const forwards = Int32Array.from(documents.flat(2));
        const texts = { forwards, backwards: forwards.slice().reverse() };
        return (random: Random) => {
          const offset = random.integer(stride);
          // A text too short for a row goes on from its beginning.
          const count = Math.max(
            Math.min(1, forwards.length),
            Math.floor((forwards.length - contextLength - offset) / stride),
          );
          return Array.from({ length: count }, (_, index) => ({ ...texts, start: offset + index * stride }));
        };
      },
      transform: (example: BothTexts, random): BothWays => {
        const read = (way: "forwards" | "backwards") =>
          Array.from({ length: xlnetSegments }, (_, index) =>
            permutedSegment(
              example[way],
              example.start + index * reuseLength,
              vocabulary,
              { ...segments, backwards: way === "backwards" },
              random.fork(`${way} ${index}`),
            ),
          );
        return { forwards: read("forwards"), backwards: read("backwards") };
      },
      collate: bothWaysBatch,
    }),
    // As a network that reads every row forwards: which way a row is read is a matter of pretraining alone.
    networks: [
      wholeNetwork(model, {
        architectures: ["XLNetLMHeadModel"],
        ...xlnetTable.write({ ...config, bidirectionalData: false }),
      }),
    ],
  };
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** XLNet as the rest of the library knows it. */
export const xlnet = defineSystem({
  kind: "encoder",
  className: "XLNet",
  prefix: "transformer",
  config: xlnetTable,
  sizes: xlnetSizes,
  create: (config) => new Xlnet(config),
  heads: { ...xlnetHeads, span: { ...xlnetHeads.span, className: "ForQuestionAnsweringSimple" } },
  depth: depthByName(/^transformer\.(word_embedding\.|mask_emb$)/, /^transformer\.layer\.(\d+)\./),
  tokenizer: { kind: "unigram", style: "xlnet" },
  pretraining: {
    objective: "tokens in random order, with memory, half of the rows backwards",
    prepare: pretrainXlnet,
  },
});
