/**
 * Speed of LLaMA-shaped models with random weights, against llama.cpp and transformers.js on the same numbers: the same
 * GGUF here and in llama.cpp, and an export of it in transformers.js.
 *
 *   npm run build && node dist/bench/llama.js                   110M parameters in f32, 8 and 4 bits
 *   node dist/bench/llama.js --size 1b --forms q4_0             1.1B parameters
 *   node dist/bench/llama.js --gguf MODEL.gguf                  a model of your own
 *   node dist/bench/llama.js --threads 1                        of every engine; default: all cores
 *   node dist/bench/llama.js --cache int8                       what lineage keeps keys and values as (llama.cpp: float16)
 *   node dist/bench/llama.js --prepared                         from the second run on, load what the first one prepared
 *   node dist/bench/llama.js --smoke                            seconds: checks that everything runs
 *
 * A form is a GGUF type, or bits and columns that share a scale (4x128, 8xrow), which llama.cpp has not; a + after it lets
 * lineage read prompts with a copy in 8 bits (--fast-prompts). The first token's time is that of the first prompt of its
 * length, memory for it and all; prompt reading is the best of several, decoding the median step. The floor is the time in
 * which the engine reads as many bytes as the weights have.
 *
 * llama.cpp is there when its library is: npm install --no-save @node-llama-cpp/linux-x64@3.22.1
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Decoder, cacheTypes } from "../src/generation/index.js";
import { packedBytes } from "../src/graph/index.js";
import { trainByteLevelBpe } from "../src/tokenizers/index.js";
import { Llama, llamaConfig, systems } from "../src/models/index.js";
import { exportForTransformersJs, loadForInference, saveGguf } from "../src/checkpoints/index.js";
import { type CausalLm, Weights } from "../src/nn/index.js";
import type { ModelWeights, QuantizationScheme } from "../src/quantization/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { LlamaCppModel, llamaCppFolder } from "./llama-cpp.js";
import { memoryBandwidth } from "./bandwidth.js";
import { median, peakMiB, timed } from "./harness.js";

const { values: options } = parseArgs({
  options: {
    size: { type: "string", default: "110m" },
    forms: { type: "string", default: "f32,q8_0,q8_0+,8xrow,q4_0,q4_0+,4x128,4x128+" },
    contexts: { type: "string", default: "128,1024,4096" },
    peers: { type: "string", default: "lineage,llama.cpp,transformers.js" },
    gguf: { type: "string" },
    folder: { type: "string", default: "runs/bench-llama" },
    tokens: { type: "string", default: "32" },
    threads: { type: "string" },
    cache: { type: "string", default: "float32" },
    prepared: { type: "boolean", default: false },
    smoke: { type: "boolean", default: false },
    worker: { type: "string" },
  },
});

const shared = { vocabSize: 32_000, contextLength: 4352 };
const sizes = {
  smoke: llamaConfig({ ...shared, hiddenSize: 128, numLayers: 2, numHeads: 4, tieEmbeddings: true }),
  "110m": llamaConfig({ ...shared, hiddenSize: 768, numLayers: 12, numHeads: 12, tieEmbeddings: true }),
  "1b": llamaConfig({
    ...shared,
    hiddenSize: 2048,
    numLayers: 22,
    numHeads: 32,
    numKeyValueHeads: 4,
    intermediateSize: 5632,
  }),
};
const size = (options.smoke ? "smoke" : options.size) as keyof typeof sizes;
const contexts = (options.smoke ? "32" : options.contexts).split(",").map(Number);
const threads = Number(options.threads ?? process.env["LINEAGE_THREADS"] ?? os.availableParallelism());
const cacheType = cacheTypes.find((type) => type === options.cache);
if (!cacheType) throw new Error(`--cache is one of ${cacheTypes.join(", ")}, not ${options.cache}`);
const newTokens = options.smoke ? 4 : Number(options.tokens);

/** What one engine did with one file. */
interface Result {
  readonly loadSeconds: number;
  /** Bytes of the weights that a token reads. */
  readonly weightBytes?: number;
  readonly peakMiB: number;
  readonly runs: readonly Run[];
}

interface Run {
  readonly context: number;
  /** Seconds from a prompt to its first token, when the engine has read none of that length yet. */
  readonly first: number;
  /** Tokens a second. */
  readonly prompt: number;
  readonly step: number;
}

/** An engine with one model: reads a prompt from nothing, then one token more. */
interface Engine {
  readonly weightBytes?: number;
  readonly read: (ids: readonly number[]) => unknown;
  readonly step: (id: number) => unknown;
}

async function measure(load: () => Promise<Engine>, limit: number): Promise<Result> {
  const started = performance.now();
  const engine = await load();
  const loadSeconds = (performance.now() - started) / 1000;
  const runs: Run[] = [];
  for (const context of contexts) {
    const ids = Array.from(
      { length: Math.min(context, limit - newTokens - 1) },
      (_, i) => 5 + ((i * 7919) % 250),
    );
    const prompts = await timed(context > 2000 ? 2 : 3, () => engine.read(ids));
    await engine.step(7);
    const steps = await timed(newTokens, () => engine.step(9));
    runs.push({
      context: ids.length,
      first: prompts[0]!,
      prompt: ids.length / Math.min(...prompts),
      step: 1 / median(steps),
    });
  }
  return {
    loadSeconds,
    weightBytes: engine.weightBytes,
    peakMiB: peakMiB(),
    runs,
  };
}

// ---- Engines, each in a process of its own --------------------------------------------------------------------------------

/** `4x128`: 4 bits in blocks of 128; `8xrow`: 8 bits with a scale for each row. */
function schemeOf(form: string): QuantizationScheme | undefined {
  const [bits, blockSize] = form.split("x");
  if (blockSize === undefined) return undefined;
  return { bits: Number(bits) as 4 | 8, blockSize: blockSize === "row" ? blockSize : Number(blockSize) };
}

/** Bytes of token embeddings that no product reads: all of them, a few rows aside, where the output has its own. */
function unreadBytes(model: CausalLm, { constants }: ModelWeights): number {
  if (!(model instanceof Llama) || model.config.tieEmbeddings) return 0;
  const { name } = model.transformer.tokenEmbedding.weight;
  const packed = constants.packed[name];
  return packed ? packedBytes(packed) : constants.tensors[name]!.byteLength;
}

const engines: Record<string, (file: string, fastPrompts: boolean) => Promise<Engine>> = {
  lineage: async (source, fastPrompts) => {
    const runtime = createRuntime({ threads });
    const prepared = options.prepared ? { folder: path.join(options.folder, "prepared") } : undefined;
    const { model, weights, kept } = await loadForInference(runtime, source, { fastPrompts, prepared });
    await kept;
    const capacity = Math.min(model.config.contextLength, Math.max(...contexts) + newTokens + 2);
    const decoder = await Decoder.create({ model, weights, capacity, cacheType });
    let slot = decoder.open();
    return {
      weightBytes: weights.stepBytes - unreadBytes(model, weights),
      read: async (ids) => {
        slot.close();
        decoder.forget();
        slot = decoder.open();
        await decoder.read(slot, ids);
      },
      step: (id) => decoder.step([slot], [id]),
    };
  },
  "llama.cpp": (file) => {
    const limit = Math.max(...contexts) + newTokens + 2;
    const model = LlamaCppModel.load(file, { threads, contextLength: limit });
    return Promise.resolve({
      read: (ids) => {
        model.reset();
        model.evaluate(ids);
      },
      step: (id) => model.evaluate([id]),
    });
  },
  "transformers.js": async (folder) => {
    const { AutoModelForCausalLM, Tensor, env } = await import("@huggingface/transformers");
    env.allowRemoteModels = false;
    env.localModelPath = `${path.dirname(path.resolve(folder))}/`;
    const model = await AutoModelForCausalLM.from_pretrained(path.basename(folder), {
      dtype: "fp32",
      device: "cpu",
      session_options: { intraOpNumThreads: threads },
    });
    const tensor = (values: readonly number[]) =>
      new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
    type Outputs = Record<string, unknown>;
    let past: unknown = null;
    let length = 0;
    const run = async (ids: readonly number[]): Promise<void> => {
      length += ids.length;
      const outputs = (await model.forward({
        input_ids: tensor(ids),
        attention_mask: tensor(new Array<number>(length).fill(1)),
        past_key_values: past,
      })) as Outputs;
      past = Object.fromEntries(
        Object.entries(outputs)
          .filter(([name]) => name.startsWith("present"))
          .map(([name, value]) => [name.replace("present", "past_key_values"), value]),
      );
    };
    return {
      read: (ids) => {
        past = null;
        length = 0;
        return run(ids);
      },
      step: (id) => run([id]),
    };
  },
};

if (options.worker !== undefined) {
  const [engine, file, fastPrompts, limit] = JSON.parse(options.worker) as [string, string, boolean, number];
  const result = await measure(() => engines[engine]!(file, fastPrompts), limit);
  process.stdout.write(`\n${JSON.stringify(result)}\n`);
  process.exit(0);
}

// ---- Files ----------------------------------------------------------------------------------------------------------------

mkdirSync(options.folder, { recursive: true });
const place = (name: string): string => path.join(options.folder, `${size}-${name}`);

/** A form without how it reads prompts. */
const plain = (form: string): string => form.replace("+", "");

/** The GGUF of a form; `4x128` and its like are packed from f32. */
async function prepare(forms: readonly string[]): Promise<void> {
  const needed = new Set(forms.map(plain).map((form) => (schemeOf(form) ? "f32" : form)));
  const missing = [...needed].filter((form) => !existsSync(place(`${form}.gguf`)));
  if (missing.length === 0) return;
  const runtime = createRuntime();
  const model = new Llama(sizes[size]);
  using weights = Weights.initialize(runtime, model, 1);
  const tokenizer = trainByteLevelBpe(["the cat sat on the mat and the dog on the log"], { vocabSize: 280 });
  for (const form of missing)
    await saveGguf(
      place(`${form}.gguf`),
      { system: systems.llama, model, weights, tokenizer },
      { format: form.toUpperCase(), name: size },
    );
}

/** What an engine loads for a form; undefined where it has no such form. */
async function sourceFor(engine: string, form: string): Promise<string | undefined> {
  const scheme = schemeOf(form);
  const gguf = options.gguf ?? place(`${scheme ? "f32" : form}.gguf`);
  if (engine === "llama.cpp") return scheme || !llamaCppFolder ? undefined : gguf;
  if (engine === "lineage" && !scheme) return gguf;
  const folder = place(`${form}-${engine}`);
  if (!existsSync(path.join(folder, "config.json"))) {
    const loaded = await loadForInference(createRuntime(), gguf, { quantize: scheme });
    if (engine === "lineage") {
      const { saveModel } = await import("../src/checkpoints/index.js");
      await saveModel(folder, loaded);
    } else await exportForTransformersJs(folder, loaded);
    loaded.weights.dispose();
  }
  return folder;
}

// ---- The table ------------------------------------------------------------------------------------------------------------

const speed = await memoryBandwidth(createRuntime({ threads }), options.smoke);
console.log(
  `${os.cpus()[0]?.model ?? "?"}, ${threads} threads; memory reads ${(speed / 1e9).toFixed(1)} GB/s${options.smoke ? "; smoke run" : ""}\n`,
);
console.log(
  "form      engine            context   first token ms   prompt tok/s   decode tok/s   of the floor   load s   peak MiB",
);
const forms = options.gguf ? ["gguf", "gguf+"] : options.forms.split(",");
if (!options.gguf) await prepare(forms);
for (const form of forms) {
  for (const engine of options.peers.split(",")) {
    const fastPrompts = form.endsWith("+");
    if (fastPrompts && engine !== "lineage") continue;
    const source = await sourceFor(engine, plain(form));
    if (source === undefined) continue;
    const limit = sizes[size].contextLength;
    const child = spawnSync(
      process.execPath,
      [
        fileURLToPath(import.meta.url),
        ...process.argv.slice(2),
        "--worker",
        JSON.stringify([engine, source, fastPrompts, limit]),
      ],
      { encoding: "utf8", maxBuffer: 2 ** 26 },
    );
    const line = child.stdout.trim().split("\n").at(-1) ?? "";
    if (child.status !== 0 || !line.startsWith("{")) {
      console.log(
        `${form.padEnd(10)}${engine.padEnd(18)}failed: ${child.stderr.trim().split("\n").at(-1) ?? ""}`,
      );
      continue;
    }
    const result = JSON.parse(line) as Result;
    for (const [index, { context, first, prompt, step }] of result.runs.entries()) {
      const floor =
        result.weightBytes === undefined ? "" : `${((100 * step * result.weightBytes) / speed).toFixed(0)}%`;
      console.log(
        `${form.padEnd(10)}${engine.padEnd(18)}${String(context).padStart(7)}${(1000 * first).toFixed(0).padStart(17)}${prompt.toFixed(0).padStart(15)}${step.toFixed(1).padStart(15)}${floor.padStart(15)}` +
          (index === 0
            ? `${result.loadSeconds.toFixed(2).padStart(9)}${result.peakMiB.toFixed(0).padStart(11)}`
            : ""),
      );
    }
  }
}
