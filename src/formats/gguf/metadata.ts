import { LineageError } from "../../base/errors.js";
import type { Warn } from "../../base/warnings.js";
import type { GgufFile } from "./file.js";

/** Entries that say nothing of the numbers: where a file comes from, how it was made, its tokenizer. */
const withoutEffect = /^(general|tokenizer|quantize|split|lineage|imatrix|clip|mradermacher)\./;

/** Entries of an architecture that change nothing here, with the reason. */
const known: Readonly<Record<string, string>> = {
  vocab_size: "the embeddings say it",
  tensor_data_layout: "the same for all files since 2023",
  "attention.key_length": "the shapes of the tensors say it, and are compared",
  "attention.value_length": "the shapes of the tensors say it, and are compared",
  "attention.key_length_swa": "the same for all layers here",
  "attention.value_length_swa": "the same for all layers here",
  "rope.dimension_count": "compared with the size of a head",
  "rope.scaling.finetuned": "says how the model was trained",
};

/** Entries that change numbers in a way that lineage does not compute, unless they have this value. */
const neutral: Readonly<Record<string, unknown>> = {
  "attention.scale": 0,
  logit_scale: 1,
  embedding_scale: 1,
  residual_scale: 1,
  attn_logit_softcapping: 0,
  final_logit_softcapping: 0,
  router_logit_softcapping: 0,
  expert_count: 0,
  expert_used_count: 0,
  expert_shared_count: 0,
  expert_feed_forward_length: 0,
  expert_weights_scale: 1,
  leading_dense_block_count: 0,
  "attention.clamp_kqv": 0,
  "attention.max_alibi_bias": 0,
  "attention.causal": true,
  "attention.sliding_window": 0,
  "attention.q_lora_rank": 0,
  "attention.kv_lora_rank": 0,
  "attention.relative_buckets_count": 0,
  "rope.dimension_sections": undefined,
  "rope.scaling.yarn_log_multiplier": 0,
  "rope.scaling.alpha": 0,
  use_parallel_residual: false,
  pooling_type: 0,
  swin_norm: false,
};

/**
 * Looks at the entries of the architecture that nothing here reads. Throws `unsupported` for one that makes another model
 * of the same tensors, and warns of those that nobody here knows.
 * @param read keys, without the architecture, that the system reads
 */
export function checkMetadata(gguf: GgufFile, read: ReadonlySet<string>, warn: Warn): void {
  const start = `${gguf.require("general.architecture", "string")}.`;
  const unknown: string[] = [];
  for (const [name, { value }] of gguf.header.metadata) {
    if (!name.startsWith(start)) {
      if (!withoutEffect.test(name)) unknown.push(name);
      continue;
    }
    const key = name.slice(start.length);
    if (read.has(key) || Object.hasOwn(known, key)) continue;
    if (!Object.hasOwn(neutral, key)) unknown.push(name);
    else if (value !== neutral[key] && !(Array.isArray(value) && value.every((each) => each === 0)))
      throw new LineageError(
        "unsupported",
        `${gguf.path}: ${name} is ${JSON.stringify(String(value))}, which lineage does not compute for this architecture`,
      );
  }
  if (unknown.length > 0)
    warn(`${gguf.path} has entries that lineage does not know and ignores: ${unknown.join(", ")}`);
}

/** Entries that `ropeScalingOfGguf` reads. */
export const ropeKeys: readonly string[] = [
  "rope.dimension_count",
  "rope.scale_linear",
  "rope.scaling.type",
  "rope.scaling.factor",
  "rope.scaling.original_context_length",
  "rope.scaling.attn_factor",
  "rope.scaling.yarn_ext_factor",
  "rope.scaling.yarn_attn_factor",
  "rope.scaling.yarn_beta_fast",
  "rope.scaling.yarn_beta_slow",
];
