import { type Tensor, input, squeeze } from "../graph/index.js";
import type { EncoderInputs, WeightSet } from "../nn/index.js";
import { namedParameters } from "../nn/index.js";
import { type HeldEncoder, encoderIn } from "./held-encoder.js";

/** Makes a text's vector `[batch, size]` of states `[batch, sequence, hiddenSize]` and mask, bool `[batch, sequence]`. */
export type MakeVector = (hidden: Tensor, attentionMask: Tensor) => Tensor;

/** What the field calls an output with the vectors of texts. */
export const vectorOutput = "sentence_embedding";

/**
 * An encoder as the field exports it, for transformers.js, Optimum and ONNX Runtime's own tools: `input_ids`,
 * `attention_mask` and, where the model reads segments, `token_type_ids`, int64 `[batch_size, sequence_length]`, for choices
 * `[batch_size, num_choices, sequence_length]`; out come `last_hidden_state`, `logits`, or `start_logits` and `end_logits`.
 * @param vector also gives `sentence_embedding` of an encoder without a head
 */
export function encoderOutputs(held: HeldEncoder<WeightSet>, vector?: MakeVector): Record<string, Tensor> {
  namedParameters(held.model);
  const head = "head" in held ? held.head : undefined;
  const shape =
    head === "choice" ? ["batch_size", "num_choices", "sequence_length"] : ["batch_size", "sequence_length"];
  const inputs: EncoderInputs = {
    inputIds: input("input_ids", "int64", shape),
    attentionMask: input("attention_mask", "int64", shape).cast("bool"),
    tokenTypeIds: readsSegments(held) ? input("token_type_ids", "int64", shape) : undefined,
  };
  if (!("head" in held)) {
    const hidden = held.model.encode(inputs);
    return {
      last_hidden_state: hidden,
      ...(vector && { [vectorOutput]: vector(hidden, inputs.attentionMask!) }),
    };
  }
  const logits = held.model.forward(inputs);
  if (head !== "span") return { logits };
  const [start, end] = logits.split(2, 2).map((part) => squeeze(part, 2));
  return { start_logits: start!, end_logits: end! };
}

/** Whether it tells segments apart: a table of one row, as RoBERTa's, adds the same to every token. */
function readsSegments(held: HeldEncoder<WeightSet>): boolean {
  const { typeVocabSize } = encoderIn(held).config as { readonly typeVocabSize?: number };
  return typeVocabSize === undefined || typeVocabSize > 1;
}
