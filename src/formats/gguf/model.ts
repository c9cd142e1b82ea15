import { FormatError, LineageError } from "../../base/errors.js";
import { ggufFormat } from "./blocks.js";
import type { GgufFile, GgufValue } from "./file.js";
import type { GgufTensorToSave } from "./write.js";

type Json = Readonly<Record<string, unknown>>;

/** How a parameter lies in a GGUF. */
export interface GgufPlace {
  readonly name: string;
  /**
   * Attention heads whose rotary pairs stand side by side in the GGUF and half a head apart in Hugging Face's layout;
   * the rows of each head are in another order.
   */
  readonly rotaryHeads?: number;
  /** Whether the matrix is transposed: GPT-2's is `[in, out]` in Hugging Face's layout. */
  readonly transposed?: boolean;
}

// ---- Names --------------------------------------------------------------------------------------------------------

const llamaParts: Readonly<Record<string, string>> = {
  input_layernorm: "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  post_attention_layernorm: "ffn_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};
const gpt2Parts: Readonly<Record<string, string>> = {
  ln_1: "attn_norm",
  "attn.c_attn": "attn_qkv",
  "attn.c_proj": "attn_output",
  ln_2: "ffn_norm",
  "mlp.c_fc": "ffn_up",
  "mlp.c_proj": "ffn_down",
};
const wholes: Readonly<Record<string, string>> = {
  "model.embed_tokens.weight": "token_embd.weight",
  "model.norm.weight": "output_norm.weight",
  "lm_head.weight": "output.weight",
  "transformer.wte.weight": "token_embd.weight",
  "transformer.wpe.weight": "position_embd.weight",
  "transformer.ln_f.weight": "output_norm.weight",
  "transformer.ln_f.bias": "output_norm.bias",
};

/** Where llama.cpp keeps the parameter that Hugging Face calls `name`; `config` is the model's `config.json`. */
export function ggufPlace(name: string, config: Json): GgufPlace {
  if (Object.hasOwn(wholes, name)) return { name: wholes[name]! };
  const match = /^(?:model\.layers|transformer\.h)\.(\d+)\.(.+)\.(weight|bias)$/.exec(name);
  const [, layer, part, kind] = match ?? [];
  const parts = config["model_type"] === "gpt2" ? gpt2Parts : llamaParts;
  if (part === undefined || !Object.hasOwn(parts, part))
    throw new LineageError("unsupported", `llama.cpp has no name for the parameter ${name}`);
  const heads = {
    attn_q: config["num_attention_heads"],
    attn_k: config["num_key_value_heads"] ?? config["num_attention_heads"],
  }[parts[part]!] as number | undefined;
  return {
    name: `blk.${layer}.${parts[part]}.${kind}`,
    rotaryHeads: heads,
    transposed: kind === "weight" && part.includes(".c_"),
  };
}

/**
 * For every row of a GGUF matrix of rotary heads, the row of Hugging Face's that it is: pair `i` of a head stands at rows
 * 2i and 2i + 1 there, and at rows i and i + half here.
 */
export function rotaryRows(rows: number, heads: number): Int32Array {
  const size = rows / heads;
  return Int32Array.from({ length: rows }, (_, row) => {
    const within = row % size;
    return row - within + (within % 2) * (size / 2) + (within >> 1);
  });
}

/** Rows of a GGUF matrix, quantised or not, in Hugging Face's order. */
export function rearrangeRows(bytes: Uint8Array, rows: number, { rotaryHeads }: GgufPlace): Uint8Array {
  if (rotaryHeads === undefined) return bytes;
  const size = bytes.byteLength / rows;
  const out = new Uint8Array(bytes.byteLength);
  rotaryRows(rows, rotaryHeads).forEach((other, row) => {
    out.set(bytes.subarray(row * size, (row + 1) * size), other * size);
  });
  return out;
}

/** Hugging Face's values from a GGUF's, or the other way round. */
export function rearrange(
  values: Float32Array,
  shape: readonly number[],
  { rotaryHeads, transposed }: GgufPlace,
  direction: "fromGguf" | "toGguf",
): Float32Array {
  const [rows, columns] = [shape[0]!, shape[1] ?? 1];
  if (rotaryHeads !== undefined) {
    const out = new Float32Array(values.length);
    rotaryRows(rows, rotaryHeads).forEach((other, row) => {
      const [from, to] = direction === "fromGguf" ? [row, other] : [other, row];
      out.set(values.subarray(from * columns, (from + 1) * columns), to * columns);
    });
    return out;
  }
  if (!transposed) return values;
  // `shape` is Hugging Face's: [in, out].
  const out = new Float32Array(values.length);
  const [height, width] = direction === "toGguf" ? [rows, columns] : [columns, rows];
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++) out[column * height + row] = values[row * width + column]!;
  return out;
}

// ---- Configurations -----------------------------------------------------------------------------------------------

/** The shortest decimal that float32 rounds to `value`: 1e-5 for 9.999999747378752e-06. */
function decimal(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === Math.fround(value)) return short;
  }
  return value;
}

/** The `config.json` that a GGUF's metadata amounts to. Throws `unsupported` for an architecture that lineage does not load. */
export function ggufConfig(gguf: GgufFile): Json {
  const architecture = gguf.require("general.architecture", "string");
  const number = (key: string) => gguf.require(`${architecture}.${key}`, "number");
  const optional = (key: string) => gguf.get(`${architecture}.${key}`, "number");
  const embedding = gguf.tensor("token_embd.weight").shape;
  const tokens = {
    bos_token_id: gguf.get("tokenizer.ggml.bos_token_id", "number"),
    eos_token_id: gguf.get("tokenizer.ggml.eos_token_id", "number"),
    pad_token_id: gguf.get("tokenizer.ggml.padding_token_id", "number"),
  };
  if (architecture === "gpt2")
    return {
      architectures: ["GPT2LMHeadModel"],
      model_type: "gpt2",
      vocab_size: embedding[0],
      n_positions: number("context_length"),
      n_embd: number("embedding_length"),
      n_layer: number("block_count"),
      n_head: number("attention.head_count"),
      n_inner: number("feed_forward_length"),
      layer_norm_epsilon: decimal(number("attention.layer_norm_epsilon")),
      ...tokens,
    };
  if (architecture !== "llama")
    throw new LineageError(
      "unsupported",
      `${gguf.path} holds a model of the architecture ${architecture}; lineage loads llama (LLaMA, Mistral) and gpt2`,
    );
  if ((optional("expert_count") ?? 0) > 0)
    throw new LineageError(
      "unsupported",
      `${gguf.path} holds a mixture of experts, which lineage does not load`,
    );
  const heads = number("attention.head_count");
  const headSize = optional("attention.key_length") ?? number("embedding_length") / heads;
  const window = optional("attention.sliding_window");
  const theta = decimal(optional("rope.freq_base") ?? 10_000);
  return {
    architectures: [window ? "MistralForCausalLM" : "LlamaForCausalLM"],
    model_type: window ? "mistral" : "llama",
    vocab_size: embedding[0],
    max_position_embeddings: number("context_length"),
    hidden_size: number("embedding_length"),
    intermediate_size: number("feed_forward_length"),
    num_hidden_layers: number("block_count"),
    num_attention_heads: heads,
    num_key_value_heads: optional("attention.head_count_kv") ?? heads,
    head_dim: headSize,
    rms_norm_eps: decimal(number("attention.layer_norm_rms_epsilon")),
    rope_theta: theta,
    ...(window
      ? { sliding_window: window }
      : {
          rope_scaling: ropeScaling(gguf, optional("rope.scaling.factor")),
          tie_word_embeddings: !gguf.tensors.has("output.weight"),
        }),
    ...tokens,
  };
}

function ropeScaling(gguf: GgufFile, factor: number | undefined): Json | null {
  const kind = gguf.get("llama.rope.scaling.type", "string");
  if (kind === "linear" && factor !== undefined) return { rope_type: "linear", factor: decimal(factor) };
  if (kind !== undefined && kind !== "none")
    throw new LineageError(
      "unsupported",
      `${gguf.path} scales its positions by ${kind}, which lineage does not load`,
    );
  return null;
}

const frequencyFactors = "rope_freqs.weight";

/**
 * LLaMA-3's scaling from the divisors of the frequencies, which are all that a GGUF keeps of it. Throws `unsupported` for
 * divisors that are not LLaMA-3's.
 */
export async function ropeScalingOfFactors(gguf: GgufFile, config: Json): Promise<Json | undefined> {
  if (!gguf.tensors.has(frequencyFactors)) return undefined;
  const factors = await gguf.readValues(frequencyFactors);
  const scaling = {
    rope_type: "llama3",
    factor: decimal(factors.reduce((a, b) => Math.max(a, b), 1)),
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  };
  const expected = llama3Factors(scaling, config["rope_theta"] as number, config["head_dim"] as number);
  if (
    factors.length !== expected.length ||
    factors.some((value, i) => Math.abs(value / expected[i]! - 1) > 1e-4)
  )
    throw new LineageError(
      "unsupported",
      `${gguf.path}: ${frequencyFactors} is not the scaling of LLaMA-3, the one that lineage knows`,
    );
  return scaling;
}

/** By what LLaMA-3 divides each rotary frequency. */
function llama3Factors(scaling: Json, theta: number, headSize: number): Float32Array {
  const { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } = scaling as Record<
    string,
    number
  >;
  const length = original_max_position_embeddings!;
  return Float32Array.from({ length: headSize / 2 }, (_, i) => {
    const turns = length / (2 * Math.PI * theta ** ((2 * i) / headSize));
    if (turns > high_freq_factor!) return 1;
    if (turns < low_freq_factor!) return factor!;
    const smooth = (turns - low_freq_factor!) / (high_freq_factor! - low_freq_factor!);
    return 1 / ((1 - smooth) / factor! + smooth);
  });
}

/** The metadata of a model and the tensors that stand for a part of it. Throws `unsupported` for what llama.cpp has no words for. */
export function ggufModel(
  config: Json,
  name: string,
): { metadata: Map<string, GgufValue>; tensors: GgufTensorToSave[] } {
  const metadata = new Map<string, GgufValue>();
  const tensors: GgufTensorToSave[] = [];
  const type = String(config["model_type"]);
  const architecture = type === "mistral" ? "llama" : type;
  if (architecture !== "llama" && architecture !== "gpt2")
    throw new LineageError("unsupported", `a ${type} is not written as GGUF; llama, mistral and gpt2 are`);
  const text = (key: string, value: string) => metadata.set(key, { type: "string", value });
  const own = (key: string, type: "uint32" | "float32", entry: unknown) => {
    if (typeof entry !== "number")
      throw new LineageError("config", `the configuration says nothing of ${key}, which GGUF needs`);
    metadata.set(`${architecture}.${key}`, { type, value: entry });
  };
  text("general.architecture", architecture);
  text("general.type", "model");
  text("general.name", name);
  metadata.set("general.quantization_version", { type: "uint32", value: 2 });
  if (architecture === "gpt2") {
    own("context_length", "uint32", config["n_positions"]);
    own("embedding_length", "uint32", config["n_embd"]);
    own("feed_forward_length", "uint32", config["n_inner"] ?? 4 * Number(config["n_embd"]));
    own("block_count", "uint32", config["n_layer"]);
    own("attention.head_count", "uint32", config["n_head"]);
    own("attention.layer_norm_epsilon", "float32", config["layer_norm_epsilon"] ?? 1e-5);
    const activation = config["activation_function"] ?? "gelu_new";
    if (activation !== "gelu_new")
      throw new LineageError("unsupported", `llama.cpp's GPT-2 computes gelu_new, not ${String(activation)}`);
    return { metadata, tensors };
  }
  const heads = config["num_attention_heads"];
  const headSize = config["head_dim"] ?? Number(config["hidden_size"]) / Number(heads);
  own("vocab_size", "uint32", config["vocab_size"]);
  own("context_length", "uint32", config["max_position_embeddings"] ?? 2048);
  own("embedding_length", "uint32", config["hidden_size"]);
  own("feed_forward_length", "uint32", config["intermediate_size"]);
  own("block_count", "uint32", config["num_hidden_layers"]);
  own("attention.head_count", "uint32", heads);
  own("attention.head_count_kv", "uint32", config["num_key_value_heads"] ?? heads);
  own("attention.key_length", "uint32", headSize);
  own("attention.value_length", "uint32", headSize);
  own("rope.dimension_count", "uint32", headSize);
  own("rope.freq_base", "float32", config["rope_theta"] ?? 10_000);
  own("attention.layer_norm_rms_epsilon", "float32", config["rms_norm_eps"] ?? 1e-6);
  if (typeof config["sliding_window"] === "number")
    own("attention.sliding_window", "uint32", config["sliding_window"]);
  const scaling = config["rope_scaling"] as Json | null | undefined;
  const kind = scaling?.["rope_type"] ?? scaling?.["type"];
  if (scaling && kind === "linear") {
    metadata.set("llama.rope.scaling.type", { type: "string", value: "linear" });
    own("rope.scaling.factor", "float32", scaling["factor"]);
  } else if (scaling && kind === "llama3") {
    const factors = llama3Factors(scaling, Number(config["rope_theta"]), Number(headSize));
    tensors.push({
      name: frequencyFactors,
      format: ggufFormat("F32"),
      shape: [factors.length],
      values: () => factors,
    });
  } else if (scaling && kind !== "default")
    throw new LineageError(
      "unsupported",
      `the position scaling ${String(kind)} has no words in a GGUF of lineage`,
    );
  return { metadata, tensors };
}

/** The format of a tensor in a file of `format`: vectors and positions stay exact, embeddings finer than the rest. */
export function tensorFormat(place: GgufPlace, shape: readonly number[], format: string): string {
  if (shape.length < 2 || place.name === "position_embd.weight") return "F32";
  const wanted = format === "Q4_0" && /^(token_embd|output)\./.test(place.name) ? "Q8_0" : format;
  const columns = place.transposed ? shape[0]! : shape[1]!;
  return columns % ggufFormat(wanted).elements === 0 ? wanted : "F16";
}

/** Throws FormatError where a tensor's shape is not the model's. */
export function checkGgufShape(gguf: GgufFile, place: GgufPlace, shape: readonly number[]): void {
  const stored = gguf.tensor(place.name).shape;
  const expected = place.transposed ? [...shape].reverse() : shape;
  if (stored.join() !== expected.join())
    throw new FormatError(
      gguf.path,
      `the tensor ${place.name} is [${stored.join(", ")}], but the metadata makes it [${expected.join(", ")}]`,
    );
}
