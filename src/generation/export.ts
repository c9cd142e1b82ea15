import { LineageError } from "../base/errors.js";
import {
  type Dim,
  type KeyValueCache,
  type Tensor,
  addDims,
  cast,
  concat,
  expand,
  input,
  max,
  mul,
  range,
  slice,
  sub,
  sum,
  unsqueeze,
} from "../graph/index.js";
import { type EncoderDecoder, type KeysAndValues, namedParameters } from "../nn/index.js";
import type { CausalModel } from "./model.js";

/**
 * A causal model as the field exports it, for transformers.js, Optimum and ONNX Runtime's own tools: ids, mask and positions
 * in, logits out, and keys and values that grow by the new positions with every call.
 * Rows may be padded on either side; several rows go on by one token a call, one row by any number. Throws `unsupported` for a
 * prefix language model: who runs the file does not say where a prompt ends.
 */
export function decoderOutputs(model: CausalModel): Record<string, Tensor> {
  if (model.config.prefixLm)
    throw new LineageError(
      "unsupported",
      "the field's ONNX decoders read prompts from left to right, but this model is a prefix language model, which reads them both ways",
    );
  namedParameters(model);
  const [past, total] = ["past_sequence_length", "total_sequence_length"];
  const inputIds = input("input_ids", "int64", ["batch_size", "sequence_length"]);
  const attentionMask = input("attention_mask", "int64", ["batch_size", total]);
  const positionIds = input("position_ids", "int64", ["batch_size", "sequence_length"]);
  // Padding takes places in the cache like any token, so that all rows are of one length; the mask hides it.
  const length = cast(sum(mul(attentionMask, 0).add(1), { axes: 1 }), "int32");
  const hidden = mul(sub(1, cast(attentionMask, "float32")), -1e9);
  const shared = {
    lastPosition: sub(length, 1),
    totalLength: max(length),
    bias: expand(unsqueeze(unsqueeze(hidden, 1), 1), ["batch_size", 1, "sequence_length", total]),
    presentLength: total,
  };
  const shape = model.cacheShape("batch_size", past);
  const layers: KeyValueCache[] = Array.from({ length: model.config.numLayers }, (_, layer) => ({
    key: input(`past_key_values.${layer}.key`, "float32", shape),
    value: input(`past_key_values.${layer}.value`, "float32", shape),
    ...shared,
  }));
  const present: { key: Tensor; value: Tensor }[] = [];
  const states = model.hiddenStates(inputIds, positionIds, { cache: { layers, present } });
  return {
    logits: model.logits(states),
    ...Object.fromEntries(
      present.flatMap(({ key, value }, layer) => [
        [`present.${layer}.key`, key],
        [`present.${layer}.value`, value],
      ]),
    ),
  };
}

/** The two programs as which the field exports an encoder-decoder. */
export interface EncoderDecoderPrograms {
  /** `input_ids` and `attention_mask`, int64 `[batch_size, encoder_sequence_length]` -> `last_hidden_state`. */
  readonly encoder: Record<string, Tensor>;
  /**
   * `input_ids`, `encoder_hidden_states`, `encoder_attention_mask` and keys and values so far -> `logits`, and keys and
   * values. The first pass gets empty ones and computes the source's. Later passes get these back and compute none, so that
   * what they give as the source's is empty.
   */
  readonly decoder: Record<string, Tensor>;
}

/**
 * An encoder-decoder as the field exports it, for transformers.js: one program for the source, and one for every pass of the
 * decoder (its "merged" form). Whether the source's keys and values are there already shows in their length, so that one
 * graph serves with one copy of the weights. Several rows go on by one token a call, one row by any number.
 */
export function encoderDecoderOutputs(model: EncoderDecoder): EncoderDecoderPrograms {
  namedParameters(model);
  const [batch, source, length] = ["batch_size", "encoder_sequence_length", "decoder_sequence_length"];
  const [past, pastSource] = ["past_decoder_sequence_length", "past_encoder_sequence_length"];
  const total = addDims(past, length);
  const mask = (name: string): Tensor => cast(input(name, "int64", [batch, source]), "bool");
  const states = model.encode({
    inputIds: input("input_ids", "int64", [batch, source]),
    attentionMask: mask("attention_mask"),
  });

  const layers = Array.from({ length: model.config.numDecoderLayers }, (_, layer) => layer);
  const given = (part: "decoder" | "encoder", layer: number, shape: readonly Dim[]): KeysAndValues => ({
    key: input(`past_key_values.${layer}.${part}.key`, "float32", shape),
    value: input(`past_key_values.${layer}.${part}.value`, "float32", shape),
  });
  const kept = layers.map((layer) => given("encoder", layer, model.memoryShape(batch, pastSource)));
  const memoryStates = input("encoder_hidden_states", "float32", [batch, source, model.config.hiddenSize]);
  // None of the positions once all of them are kept.
  const fresh = model.remember(slice(memoryStates, 1, pastSource));
  const memory = kept.map(({ key, value }, layer) => ({
    key: concat([key, fresh[layer]!.key], 2),
    value: concat([value, fresh[layer]!.value], 2),
  }));

  const keyPositions = range(total, "int64");
  const last = cast(slice(keyPositions, 0, addDims(total, -1)), "int32");
  const shared = {
    lastPosition: expand(last, [batch]),
    totalLength: last.add(1).reshape([]),
    presentLength: total,
  };
  const present: KeysAndValues[] = [];
  const hidden = model.hiddenStates(
    input("input_ids", "int64", [batch, length]),
    { memory, memoryMask: mask("encoder_attention_mask") },
    {
      positionIds: unsqueeze(slice(keyPositions, 0, past), 0),
      cache: {
        layers: layers.map((layer) => ({
          ...given("decoder", layer, model.cacheShape(batch, past)),
          ...shared,
        })),
        present,
        keyPositions,
      },
    },
  );
  const named = (part: "decoder" | "encoder", all: readonly KeysAndValues[]): [string, Tensor][] =>
    all.flatMap(({ key, value }, layer) => [
      [`present.${layer}.${part}.key`, key],
      [`present.${layer}.${part}.value`, value],
    ]);
  return {
    encoder: { last_hidden_state: states },
    decoder: {
      logits: model.logits(hidden),
      ...Object.fromEntries([...named("decoder", present), ...named("encoder", fresh)]),
    },
  };
}
