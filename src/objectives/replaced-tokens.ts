import {
  RandomStream,
  type Tensor,
  abs,
  add,
  argMax,
  cast,
  equal,
  exp,
  gather,
  log,
  logicalNot,
  maximum,
  mul,
  neg,
  scalar,
  scatterAdd,
  stopGradient,
  sub,
  sum,
  tokenLosses,
  where,
} from "../graph/index.js";
import { type EncoderInputs, type ForwardContext, type Module, statesAt } from "../nn/index.js";
import type { Batch } from "../data/index.js";
import type { Objective } from "../training/index.js";
import { maskedInputs } from "./masked-lm.js";
import { type MaskedRow, maskedBatch, maskedLm } from "./rows.js";

// Clark et al. 2020, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators".

/** Weight of the discriminator's loss beside the generator's, section 3.1. */
export const discriminatorWeight = 50;

/** Loss of telling replaced tokens, over all real tokens. */
export const replacedTokens = "replacedTokens";

/** How ELECTRA hides tokens: all that are chosen become the mask, section 3.1. */
export const electraMasking = { rate: 0.15, maskShare: 1, randomShare: 0 } as const;

export interface ReplacedTokenParts {
  /** Both networks, what they share counted once. */
  readonly model: Module;
  readonly generator: {
    readonly encode: (inputs: EncoderInputs, context: ForwardContext) => Tensor;
    /** Logits `[masked, vocabSize]` of hidden states `[masked, hiddenSize]`. */
    readonly logits: (hidden: Tensor, context: ForwardContext) => Tensor;
  };
  readonly discriminator: {
    readonly encode: (inputs: EncoderInputs, context: ForwardContext) => Tensor;
    /** Logits `[batch, sequence]` that a token was replaced. */
    readonly logits: (hidden: Tensor, context: ForwardContext) => Tensor;
  };
}

/**
 * Replaced-token detection: a small generator learns to fill the hidden places, a draw from it stands there instead, and the
 * discriminator tells for every token whether it is the original. No gradient passes through the draw. A draw that hits the
 * original counts as original. Evaluation draws too, the same tokens every time: the likeliest ones would be another task,
 * that of telling a few frequent words.
 */
export function replacedTokenObjective({ model, generator, discriminator }: ReplacedTokenParts): Objective {
  return {
    model,
    inputs: maskedInputs,
    lossWeights: { [replacedTokens]: discriminatorWeight },
    losses({ maskedPositions, maskedLabels, ...rest }, context) {
      const inputs = rest as unknown as EncoderInputs;
      const hidden = generator.encode(inputs, context);
      const logits = generator.logits(statesAt(hidden, maskedPositions!), context);
      const { random = new RandomStream(scalar(0, "uint32")) } = context;
      const drawn = sampleTokens(stopGradient(logits), random);
      const { corrupted, replaced } = replaceTokens(inputs.inputIds, maskedPositions!, maskedLabels!, drawn);
      const states = discriminator.encode({ ...inputs, inputIds: corrupted }, context);
      const real = cast(inputs.attentionMask!, "float32");
      const losses = binaryLosses(discriminator.logits(states, context), cast(replaced, "float32"));
      return {
        [maskedLm]: sum(tokenLosses(logits, maskedLabels!)),
        [replacedTokens]: sum(mul(losses, real)),
      };
    },
  };
}

/** A token drawn from each row of logits, `[rows, vocabSize]` -> int32 `[rows]`, by the Gumbel-max trick. */
export function sampleTokens(logits: Tensor, random: RandomStream): Tensor {
  const uniform = add(mul(random.uniform(logits.shape), 1 - 2 ** -20), 2 ** -21);
  return cast(argMax(sub(logits, log(neg(log(uniform)))), -1), "int32");
}

/** The ids with drawn tokens at the hidden places, and where they differ from the original. */
export function replaceTokens(
  inputIds: Tensor,
  places: Tensor,
  labels: Tensor,
  drawn: Tensor,
): { corrupted: Tensor; replaced: Tensor } {
  const flat = inputIds.reshape([-1]);
  const standing = gather(flat, places);
  // A label that counts for nothing leaves its place alone.
  const counts = logicalNot(equal(labels, -100));
  const put = (tokens: Tensor) =>
    scatterAdd(flat, places, where(counts, sub(tokens, standing), 0), 0).reshape(inputIds.shape);
  const [corrupted, original] = [put(drawn), put(labels)];
  return { corrupted, replaced: logicalNot(equal(corrupted, original)) };
}

/** Cross-entropy of a yes-or-no answer, `-log sigmoid(±logit)`, without overflow. */
export function binaryLosses(logits: Tensor, labels: Tensor): Tensor {
  const softplus = add(maximum(logits, 0), log(add(exp(neg(abs(logits))), 1)));
  return sub(softplus, mul(logits, labels));
}

/** A masked batch that counts all its real tokens for the discriminator. */
export function replacedTokenBatch(rows: readonly MaskedRow[], paddingId: number): Batch {
  const batch = maskedBatch(rows, paddingId);
  return { ...batch, counts: { ...batch.counts, [replacedTokens]: batch.tokens! } };
}
