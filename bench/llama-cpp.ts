import { existsSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import koffi, { type LibraryHandle } from "koffi";
import { indexOfLargest } from "../src/base/numbers.js";

// llama.cpp's prebuilt library, as an independent value for tests and as a peer for benches. It is no dependency:
// npm install --no-save @node-llama-cpp/linux-x64@3.22.1

/** Offsets in bytes of llama_context_params, include/llama.h of llama.cpp v0.5.0. */
const contextFields = {
  contextLength: 0,
  batch: 4,
  microBatch: 8,
  sequences: 12,
  threads: 28,
  batchThreads: 32,
  flash: 52,
  unified: 133,
};
const cacheTypeFields = { key: 104, value: 108 };
/** ggml_type of a cache. */
const cacheTypes = { float32: 0, float16: 1 } as const;

function findFolder(): string | undefined {
  const require = createRequire(import.meta.url);
  const name = `@node-llama-cpp/linux-${os.arch()}`;
  for (const modules of require.resolve.paths(name) ?? []) {
    const folder = path.join(modules, name, "bins", `linux-${os.arch()}`);
    if (existsSync(folder)) return folder;
  }
  return undefined;
}

/** Where the library is; undefined where it is not installed, so that tests can skip. */
export const llamaCppFolder: string | undefined = findFolder();

type Call = (...args: unknown[]) => unknown;

interface Library {
  readonly llama: (prototype: string) => Call;
  readonly base: (prototype: string) => Call;
}

let opened: Library | undefined;

function remember(loaded: LibraryHandle): (prototype: string) => Call {
  const calls = new Map<string, Call>();
  return (prototype) => {
    let call = calls.get(prototype);
    if (!call) calls.set(prototype, (call = loaded.func(prototype) as Call));
    return call;
  };
}

/** Opens the library with the kernels for this processor. */
function library(): Library {
  if (opened) return opened;
  if (!llamaCppFolder)
    throw new Error("llama.cpp is not installed: npm install --no-save @node-llama-cpp/linux-x64@3.22.1");
  const folder = llamaCppFolder;
  const find = (name: string) =>
    path.join(
      folder,
      readdirSync(folder).find((file) => file.startsWith(name))!,
    );
  const base = koffi.load(find("libggml-base.so"), { global: true });
  const ggml = koffi.load(find("libggml.v"), { global: true });
  const llama = koffi.load(find("libllama.v"));
  // Larger than either structure of parameters: what follows theirs on the stack is not looked at.
  koffi.struct("LlamaParams", { bytes: koffi.array("uint8_t", 256) });
  koffi.struct("LlamaBatch", {
    count: "int32_t",
    tokens: "int32_t *",
    embeddings: "void *",
    positions: "int32_t *",
    sequenceCounts: "void *",
    sequences: "void *",
    logits: "int8_t *",
  });
  const quiet = koffi.proto("void LlamaLog(int level, const char *text, void *data)");
  (llama.func("void llama_log_set(LlamaLog *callback, void *data)") as Call)(
    koffi.register(() => undefined, koffi.pointer(quiet)),
    null,
  );
  (ggml.func("void ggml_backend_load_all_from_path(const char *path)") as Call)(folder);
  (llama.func("void llama_backend_init()") as Call)();
  opened = { llama: remember(llama), base: remember(base) };
  return opened;
}

/** Block formats as llama.cpp names their functions, with elements and bytes of a block. */
export const blockFormats = {
  q4_0: { elements: 32, bytes: 18, type: 2 },
  q4_1: { elements: 32, bytes: 20, type: 3 },
  q8_0: { elements: 32, bytes: 34, type: 8 },
  q4_K: { elements: 256, bytes: 144, type: 12 },
  q5_K: { elements: 256, bytes: 176, type: 13 },
  q6_K: { elements: 256, bytes: 210, type: 14 },
  q5_0: { elements: 32, bytes: 22, type: 6 },
  q5_1: { elements: 32, bytes: 24, type: 7 },
  q2_K: { elements: 256, bytes: 84, type: 10 },
  q3_K: { elements: 256, bytes: 110, type: 11 },
  iq4_nl: { elements: 32, bytes: 18, type: 20 },
  iq4_xs: { elements: 256, bytes: 136, type: 23 },
  mxfp4: { elements: 32, bytes: 17, type: 39 },
} as const;
export type BlockFormat = keyof typeof blockFormats;

/** llama.cpp's own values of quantised bytes. */
export function dequantize(format: BlockFormat, bytes: Uint8Array): Float32Array {
  const { elements, bytes: size } = blockFormats[format];
  const values = new Float32Array((bytes.byteLength / size) * elements);
  library().base(`void dequantize_row_${format}(const void *x, _Out_ float *y, int64_t k)`)(
    bytes,
    values,
    values.length,
  );
  return values;
}

/** llama.cpp's own bytes for values, rounded by its reference code. */
export function quantize(format: BlockFormat, values: Float32Array): Uint8Array {
  const { elements, bytes: size } = blockFormats[format];
  const bytes = new Uint8Array((values.length / elements) * size);
  library().base(`void quantize_row_${format}_ref(const float *x, _Out_ void *y, int64_t k)`)(
    values,
    bytes,
    values.length,
  );
  return bytes;
}

export interface LlamaCppOptions {
  /** Default 1: more wait for each other where the machine is busy. */
  readonly threads?: number;
  /** Default 512. */
  readonly contextLength?: number;
  /** Tokens that one call takes. Default: the context. */
  readonly batch?: number;
  /** Tokens that one pass of the network takes. Default 512. */
  readonly microBatch?: number;
  /** Default float16, llama.cpp's own. */
  readonly cache?: keyof typeof cacheTypes;
  /** Sequences side by side, which share the context. Default 1. */
  readonly sequences?: number;
  /** Whether sequences share one cache, so that a token may belong to several of them. Default false. */
  readonly unified?: boolean;
}

/** A token of a batch. */
interface BatchToken {
  readonly id: number;
  readonly position: number;
  readonly sequences: readonly number[];
  /** Whether its logits are to be had. */
  readonly wanted: boolean;
}

/** A model that llama.cpp has loaded, with one context. */
export class LlamaCppModel implements Disposable {
  readonly vocabSize: number;
  /** Tokens of each sequence. */
  private readonly positions: number[];
  /** The sequences of each token of a batch; kept, since llama.cpp reads them by addresses that the collector does not see. */
  private sequences = new Int32Array(0);

  private constructor(
    private readonly model: unknown,
    private readonly context: unknown,
    private readonly vocabulary: unknown,
    readonly contextLength: number,
    sequences: number,
  ) {
    this.positions = Array.from({ length: sequences }, () => 0);
    this.vocabSize = library().llama("int32_t llama_vocab_n_tokens(void *vocab)")(vocabulary) as number;
  }

  /** Throws when llama.cpp refuses the file. */
  static load(file: string, options: LlamaCppOptions = {}): LlamaCppModel {
    const {
      threads = 1,
      contextLength = 512,
      batch = contextLength,
      microBatch = 512,
      cache = "float16",
      sequences = 1,
      unified = false,
    } = options;
    const { llama } = library();
    const modelParams = llama("LlamaParams llama_model_default_params()")();
    const model = llama("void *llama_model_load_from_file(const char *path, LlamaParams params)")(
      file,
      modelParams,
    );
    if (!model) throw new Error(`llama.cpp refuses ${file}`);
    const params = llama("LlamaParams llama_context_default_params()")() as { bytes: Uint8Array };
    const view = new DataView(Uint8Array.from(params.bytes).buffer);
    view.setUint32(contextFields.contextLength, contextLength, true);
    view.setUint32(contextFields.batch, batch, true);
    view.setUint32(contextFields.microBatch, microBatch, true);
    view.setUint32(contextFields.sequences, sequences, true);
    view.setInt32(contextFields.threads, threads, true);
    view.setInt32(contextFields.batchThreads, threads, true);
    view.setInt32(cacheTypeFields.key, cacheTypes[cache], true);
    view.setInt32(cacheTypeFields.value, cacheTypes[cache], true);
    view.setUint8(contextFields.unified, Number(unified));
    const context = llama("void *llama_init_from_model(void *model, LlamaParams params)")(model, {
      bytes: new Uint8Array(view.buffer),
    });
    if (!context) throw new Error(`llama.cpp makes no context for ${file}`);
    const vocabulary = llama("void *llama_model_get_vocab(void *model)")(model);
    const most = Number(llama("uint32_t llama_n_seq_max(void *context)")(context));
    if (most !== sequences) throw new Error(`llama.cpp takes ${most} sequences, not ${sequences}`);
    return new LlamaCppModel(model, context, vocabulary, contextLength, sequences);
  }

  /** Puts a LoRA adapter of a GGUF beside the model. Throws when llama.cpp refuses it. */
  adapt(file: string): void {
    const { llama } = library();
    const adapter = llama("void *llama_adapter_lora_init(void *model, const char *path)")(this.model, file);
    if (!adapter) throw new Error(`llama.cpp refuses the adapter ${file}`);
    const status = llama(
      "int32_t llama_set_adapters_lora(void *context, void **adapters, size_t count, float *scales)",
    )(this.context, [adapter], 1, Float32Array.of(1)) as number;
    if (status !== 0) throw new Error(`llama_set_adapters_lora gives ${status}`);
  }

  tokenize(text: string, { addSpecial = false, parseSpecial = true } = {}): number[] {
    const bytes = new TextEncoder().encode(text);
    const ids = new Int32Array(bytes.byteLength + 8);
    const count = library().llama(
      "int32_t llama_tokenize(void *vocab, const uint8_t *text, int32_t length, _Out_ int32_t *tokens, int32_t max, bool add_special, bool parse_special)",
    )(this.vocabulary, bytes, bytes.byteLength, ids, ids.length, addSpecial, parseSpecial) as number;
    if (count < 0) throw new Error(`llama.cpp needs room for ${-count} tokens`);
    return [...ids.subarray(0, count)];
  }

  /** Bytes of a token's text. */
  tokenBytes(id: number, { special = false } = {}): Uint8Array {
    const bytes = new Uint8Array(256);
    const count = library().llama(
      "int32_t llama_token_to_piece(void *vocab, int32_t token, _Out_ uint8_t *text, int32_t length, int32_t lstrip, bool special)",
    )(this.vocabulary, id, bytes, bytes.length, 0, special) as number;
    return bytes.slice(0, Math.max(0, count));
  }

  /** Forgets all sequences. */
  reset(): void {
    library().llama("void llama_memory_clear(void *memory, bool data)")(this.memory, true);
    this.positions.fill(0);
  }

  /** Reads a source, which the decoder of an encoder-decoder looks at from now on. Throws for a model without an encoder. */
  encode(ids: readonly number[]): void {
    const { llama } = library();
    if (!llama("bool llama_model_has_encoder(void *model)")(this.model))
      throw new Error("the model has no encoder");
    const batch = this.batch(ids.map((id, position) => ({ id, position, sequences: [0], wanted: true })));
    const status = llama("int32_t llama_encode(void *context, LlamaBatch batch)")(
      this.context,
      batch,
    ) as number;
    if (status !== 0) throw new Error(`llama_encode gives ${status}`);
  }

  /** Continues a sequence; logits of the last token, or of every one. They are views, which the next call overwrites. */
  evaluate(ids: readonly number[], { all = false, sequence = 0 } = {}): Float32Array[] {
    this.decode(ids.map((id, index) => ({ id, sequence, wanted: all || index === ids.length - 1 })));
    return (all ? [...ids.keys()] : [-1]).map((index) => this.logits(index));
  }

  /** Begins the first sequences with a prompt each, all in one batch; the logits after each, views as those of `evaluate`. */
  begin(prompts: readonly (readonly number[])[]): Float32Array[] {
    this.decode(
      prompts.flatMap((ids, sequence) =>
        ids.map((id, index) => ({ id, sequence, wanted: index === ids.length - 1 })),
      ),
    );
    let last = -1;
    return prompts.map(({ length }) => this.logits((last += length)));
  }

  /** Continues the first sequences by one token each, all in one batch; the logits of each, views as those of `evaluate`. */
  step(ids: readonly number[]): Float32Array[] {
    this.decode(ids.map((id, sequence) => ({ id, sequence, wanted: true })));
    return ids.map((_, index) => this.logits(index));
  }

  private decode(tokens: readonly { id: number; sequence: number; wanted: boolean }[]): void {
    const { positions } = this;
    this.decodeTokens(
      tokens.map(({ sequence, ...token }) => ({
        ...token,
        position: positions[sequence]!++,
        sequences: [sequence],
      })),
    );
  }

  /** Runs one batch of tokens of any sequences. */
  decodeTokens(tokens: readonly BatchToken[]): void {
    const status = library().llama("int32_t llama_decode(void *context, LlamaBatch batch)")(
      this.context,
      this.batch(tokens),
    ) as number;
    if (status !== 0) throw new Error(`llama_decode gives ${status}`);
  }

  private batch(tokens: readonly BatchToken[]) {
    const all = tokens.flatMap(({ sequences }) => sequences);
    this.sequences = new Int32Array(new ArrayBuffer(4 * all.length));
    this.sequences.set(all);
    const start = koffi.address(this.sequences) as bigint;
    const addresses = new BigUint64Array(tokens.length);
    let before = 0;
    for (const [index, { sequences }] of tokens.entries()) {
      addresses[index] = start + BigInt(4 * before);
      before += sequences.length;
    }
    return {
      count: tokens.length,
      tokens: Int32Array.from(tokens, ({ id }) => id),
      embeddings: null,
      positions: Int32Array.from(tokens, ({ position }) => position),
      sequenceCounts: Int32Array.from(tokens, ({ sequences }) => sequences.length),
      sequences: addresses,
      logits: Int8Array.from(tokens, ({ wanted }) => Number(wanted)),
    };
  }

  /** Logits after a token of the last batch, by its place in it. A view, which the next call overwrites. */
  logitsOf(index: number): Float32Array {
    return this.logits(index);
  }

  /** Makes a sequence begin as another does; both must share one cache. */
  copySequence(from: number, to: number): void {
    library().llama(
      "void llama_memory_seq_cp(void *memory, int32_t from, int32_t to, int32_t begin, int32_t end)",
    )(this.memory, from, to, -1, -1);
  }

  removeSequence(sequence: number): void {
    library().llama("bool llama_memory_seq_rm(void *memory, int32_t sequence, int32_t begin, int32_t end)")(
      this.memory,
      sequence,
      -1,
      -1,
    );
  }

  private get memory(): unknown {
    return library().llama("void *llama_get_memory(void *context)")(this.context);
  }

  private logits(index: number): Float32Array {
    const row = library().llama("void *llama_get_logits_ith(void *context, int32_t index)");
    return new Float32Array(koffi.view(row(this.context, index) as bigint, 4 * this.vocabSize));
  }

  /** The most probable continuation, from an empty sequence; ends at `count` tokens or at one of `stopIds`. */
  greedy(prompt: readonly number[], count: number, stopIds: readonly number[] = []): number[] {
    this.reset();
    const written: number[] = [];
    let [logits] = this.evaluate(prompt);
    for (;;) {
      const best = indexOfLargest(logits!);
      if (stopIds.includes(best)) return written;
      written.push(best);
      if (written.length === count) return written;
      [logits] = this.evaluate([best]);
    }
  }

  dispose(): void {
    const { llama } = library();
    llama("void llama_free(void *context)")(this.context);
    llama("void llama_model_free(void *model)")(this.model);
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Kullback-Leibler divergence, in nats, of the distribution of `logits` from that of `reference`. */
export function divergence(reference: Float32Array, logits: Float32Array): number {
  const normalizer = (row: Float32Array) => {
    const peak = row.reduce((a, b) => Math.max(a, b), -Infinity);
    return peak + Math.log(row.reduce((sum, value) => sum + Math.exp(value - peak), 0));
  };
  const [p, q] = [normalizer(reference), normalizer(logits)];
  return reference.reduce((sum, value, id) => sum + Math.exp(value - p) * (value - p - (logits[id]! - q)), 0);
}
