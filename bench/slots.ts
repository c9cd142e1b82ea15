/**
 * Tokens a second of several sequences at a time, all together, against llama.cpp with as many sequences in one batch: the
 * same GGUF, the same context in each sequence. Once with the machine for itself, and once beside another process that keeps
 * one core busy.
 *
 *   npm run bench -- slots                                 110M parameters in f32, 8 and 4 bits; SmolLM2 where it is
 *   node dist/bench/slots.js --gguf MODEL.gguf             a model of your own
 *   node dist/bench/slots.js --sequences 1,8 --forms q4_0
 *   node dist/bench/slots.js --smoke                       seconds: checks that everything runs
 *
 * SmolLM2 is the GGUF that the environment's LINEAGE_SMOLLM2 names. A step takes one token in each sequence; given is the
 * median, of engines that take turns.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { loadForInference, saveGguf } from "../src/checkpoints/index.js";
import { Decoder, type Slot } from "../src/generation/index.js";
import { Llama, llamaConfig, systems } from "../src/models/index.js";
import { Weights } from "../src/nn/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { trainByteLevelBpe } from "../src/tokenizers/index.js";
import { LlamaCppModel, llamaCppFolder } from "./llama-cpp.js";
import { median } from "./harness.js";

const { values: options } = parseArgs({
  options: {
    sequences: { type: "string", default: "1,2,4,8,16" },
    forms: { type: "string", default: "f32,q8_0,q4_0" },
    context: { type: "string" },
    tokens: { type: "string" },
    gguf: { type: "string" },
    folder: { type: "string", default: "runs/bench-llama" },
    threads: { type: "string" },
    smoke: { type: "boolean", default: false },
  },
});
const { smoke } = options;
const counts = (smoke ? "1,3" : options.sequences).split(",").map(Number);
const context = Number(options.context ?? (smoke ? 16 : 256));
const tokens = Number(options.tokens ?? (smoke ? 4 : 48));
const threads = Number(options.threads ?? process.env["LINEAGE_THREADS"] ?? os.availableParallelism());
const room = context + tokens + 2;
const most = Math.max(...counts);

/** An engine with one model: begins some sequences, then takes one token more in each of them. */
interface Engine {
  readonly begin: (prompts: readonly (readonly number[])[]) => unknown;
  readonly step: (ids: readonly number[]) => unknown;
  readonly dispose: () => void;
}

async function ours(file: string): Promise<Engine> {
  const { model, weights } = await loadForInference(createRuntime({ threads }), file);
  const decoder = await Decoder.create({ model, weights, slots: most, capacity: room });
  let slots: Slot[] = [];
  return {
    begin: async (prompts) => {
      for (const slot of slots) slot.close();
      decoder.forget();
      slots = prompts.map(() => decoder.open());
      for (const [index, slot] of slots.entries()) await decoder.read(slot, prompts[index]!);
    },
    step: (ids) => decoder.step(slots, ids),
    dispose: () => {
      decoder.dispose();
      weights.dispose();
    },
  };
}

function theirs(file: string): Engine {
  const model = LlamaCppModel.load(file, { threads, contextLength: room * most, sequences: most });
  return {
    begin: (prompts) => {
      model.reset();
      for (const [sequence, ids] of prompts.entries()) model.evaluate(ids, { sequence });
    },
    step: (ids) => model.step(ids),
    dispose: () => {
      model.dispose();
    },
  };
}

/** Seconds of one step, the median of each engine; they take turns, so that what else happens meets all of them. */
async function measure(engines: readonly Engine[], count: number): Promise<number[]> {
  const prompts = Array.from({ length: count }, (_, sequence) =>
    Array.from({ length: context }, (_, i) => 5 + ((i * 7919 + sequence * 31) % 250)),
  );
  const times = engines.map((): number[] => []);
  for (const engine of engines) {
    await engine.begin(prompts);
    await engine.step(prompts.map(() => 7));
  }
  const turns = 4;
  for (let turn = 0; turn < turns; turn++) {
    for (const [index, engine] of engines.entries()) {
      for (let token = 0; token < tokens / turns; token++) {
        const started = performance.now();
        await engine.step(prompts.map((_, sequence) => 9 + sequence));
        times[index]!.push((performance.now() - started) / 1000);
      }
    }
  }
  return times.map(median);
}

/** A process that keeps one core busy. */
function occupy(): ChildProcess {
  return spawn(process.execPath, ["-e", "for (;;);"], { stdio: "ignore" });
}

mkdirSync(options.folder, { recursive: true });

/** A GGUF of the 110M shape with random weights. */
async function made(form: string): Promise<string> {
  const file = path.join(options.folder, `${smoke ? "smoke" : "110m"}-${form}.gguf`);
  if (existsSync(file)) return file;
  const shape = smoke
    ? { hiddenSize: 128, numLayers: 2, numHeads: 4 }
    : { hiddenSize: 768, numLayers: 12, numHeads: 12 };
  const model = new Llama(
    llamaConfig({ vocabSize: 32_000, contextLength: 4352, tieEmbeddings: true, ...shape }),
  );
  using weights = Weights.initialize(createRuntime({ threads }), model, 1);
  const tokenizer = trainByteLevelBpe(["the cat sat on the mat and the dog on the log"], { vocabSize: 280 });
  await saveGguf(
    file,
    { system: systems.llama, model, weights, tokenizer },
    { format: form.toUpperCase(), name: "bench" },
  );
  return file;
}

const smolLm = process.env["LINEAGE_SMOLLM2"];
const subjects: [name: string, file: () => string | Promise<string>][] = options.gguf
  ? [[path.basename(options.gguf), () => options.gguf!]]
  : [
      ...(smolLm === undefined || smoke ? [] : [["SmolLM2", () => smolLm] as [string, () => string]]),
      ...options.forms.split(",").map((form): [string, () => Promise<string>] => [form, () => made(form)]),
    ];

console.log(
  `${os.cpus()[0]?.model ?? "?"}, ${threads} threads, ${context} tokens in each sequence${smoke ? "; smoke run" : ""}` +
    (llamaCppFolder ? "" : "; llama.cpp is not here"),
);
console.log("\nmodel      machine      sequences   lineage tok/s   llama.cpp tok/s   ratio");
for (const [name, source] of subjects) {
  const file = await source();
  const engines = [await ours(file), ...(llamaCppFolder ? [theirs(file)] : [])];
  for (const busy of [false, true]) {
    const other = busy ? occupy() : undefined;
    try {
      for (const count of counts) {
        const [own, peer] = await measure(engines, count);
        const rate = (seconds: number | undefined): string =>
          seconds === undefined ? "" : (count / seconds).toFixed(1);
        console.log(
          `${name.slice(0, 10).padEnd(11)}${(busy ? "one core busy" : "free").padEnd(13)}${String(count).padStart(9)}` +
            `${rate(own).padStart(16)}${rate(peer).padStart(18)}${(peer === undefined ? "" : (peer / own!).toFixed(2)).padStart(8)}`,
        );
      }
    } finally {
      other?.kill();
    }
  }
  for (const engine of engines) engine.dispose();
}
