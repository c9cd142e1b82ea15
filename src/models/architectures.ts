import { LineageError } from "../base/errors.js";
import type { CausalModel } from "../generation/index.js";
import type { Tensor } from "../graph/index.js";
import type { Tokenizer } from "../tokenizers/index.js";
import type { ForwardContext, WeightSet, Weights } from "../nn/index.js";
import type { LanguageModel } from "../training/index.js";
import { Gpt2, gpt2FromHuggingFace, gpt2ToHuggingFace } from "./gpt2.js";
import { Llama, llamaFromHuggingFace, llamaToHuggingFace } from "./llama.js";
import { Mistral, mistralFromHuggingFace, mistralToHuggingFace } from "./mistral.js";

/** A model of next tokens: it trains, and it continues sequences. */
export interface CausalLanguageModel extends CausalModel, LanguageModel {
  /** Logits `[batch, sequence, vocabSize]` of token ids `[batch, sequence]`. */
  forward(inputIds: Tensor, positionIds?: Tensor, context?: ForwardContext): Tensor;
}

/** How one architecture meets the files that the field keeps it in. */
interface Architecture {
  /** The model that a `config.json` describes. */
  readonly create: (json: unknown) => CausalLanguageModel;
  /** The `config.json` of a model of this architecture; undefined for any other model. */
  readonly describe: (model: CausalLanguageModel) => Record<string, unknown> | undefined;
  /** Tensors that published files hold besides the parameters: buffers, copies of tied weights. */
  readonly unused: RegExp;
}

function architecture<C, M extends CausalLanguageModel & { readonly config: C }>(
  Model: new (config: C) => M,
  fromHuggingFace: (json: unknown) => C,
  toHuggingFace: (config: C) => Record<string, unknown>,
  unused: RegExp,
): Architecture {
  return {
    create: (json) => new Model(fromHuggingFace(json)),
    describe: (model) => (model instanceof Model ? toHuggingFace(model.config) : undefined),
    unused,
  };
}

/** The causal models that there are, by the `model_type` of Hugging Face's `config.json`. */
const architectures: Readonly<Record<string, Architecture>> = {
  gpt2: architecture(
    Gpt2,
    gpt2FromHuggingFace,
    gpt2ToHuggingFace,
    /\.attn\.(masked_)?bias$|^lm_head\.weight$/,
  ),
  llama: architecture(
    Llama,
    llamaFromHuggingFace,
    llamaToHuggingFace,
    /\.rotary_emb\.inv_freq$|^lm_head\.weight$/,
  ),
  mistral: architecture(Mistral, mistralFromHuggingFace, mistralToHuggingFace, /\.rotary_emb\.inv_freq$/),
};

/** `model_type`s that `loadModel` knows. */
export const causalModelTypes: readonly string[] = Object.keys(architectures);

/** What is known of the `model_type` that a `config.json` names. Throws `config` where it is none of the causal models. */
export function architectureOf(json: unknown): Architecture {
  const type = (json as { model_type?: unknown } | null)?.model_type;
  const found =
    typeof type === "string" && Object.hasOwn(architectures, type) ? architectures[type] : undefined;
  if (!found)
    throw new LineageError(
      "config",
      `model_type is ${JSON.stringify(type)}, but the causal models here are ${causalModelTypes.join(", ")}`,
    );
  return found;
}

/** The model that a `config.json` describes, without weights. Throws `config` where there is none such or an entry is wrong. */
export const causalModel = (json: unknown): CausalLanguageModel => architectureOf(json).create(json);

/** The `config.json` that describes a model to Hugging Face transformers. */
export function causalModelConfig(model: CausalLanguageModel): Record<string, unknown> {
  for (const { describe } of Object.values(architectures)) {
    const json = describe(model);
    if (json) return json;
  }
  throw new LineageError("argument", `no published layout is known for a ${model.constructor.name}`);
}

/** A model with what it needs; its weights train unless another kind of set is named. */
export interface LoadedModel<W extends WeightSet = Weights> {
  readonly model: CausalLanguageModel;
  readonly weights: W;
  readonly tokenizer: Tokenizer;
  /** Ids that end what the model writes, as it was trained; never the padding's unless it is one of them. Default: the tokenizer's EOS. */
  readonly stopIds?: readonly number[] | undefined;
}
