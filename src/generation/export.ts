import {
  type KeyValueCache,
  type Tensor,
  cast,
  expand,
  input,
  max,
  mul,
  sub,
  sum,
  unsqueeze,
} from "../graph/index.js";
import { namedParameters } from "../nn/index.js";
import type { CausalModel } from "./model.js";

/**
 * A causal model as the field exports it, for transformers.js, Optimum and ONNX Runtime's own tools: ids, mask and positions
 * in, logits out, and keys and values that grow by the new positions with every call.
 * Rows may be padded on either side; several rows go on by one token a call, one row by any number.
 */
export function decoderOutputs(model: CausalModel): Record<string, Tensor> {
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
