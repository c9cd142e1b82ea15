/** One piece of work of the bench `cuda`, in a process of its own: what it holds of the GPU is then its own as well. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { tokenBatch } from "../src/data/index.js";
import { Decoder, type CacheType, generate } from "../src/generation/index.js";
import { Gpt2, Llama, gpt2Config, gpt2Sizes, llamaConfig } from "../src/models/index.js";
import { Weights } from "../src/nn/index.js";
import { nextTokenObjective } from "../src/objectives/index.js";
import { quantizeWeights } from "../src/quantization/index.js";
import { type Runtime, createRuntime } from "../src/runtime/index.js";
import { TrainingStep, adamW } from "../src/training/index.js";
import { median, request, respond, timed } from "./harness.js";
import { timedStep } from "./training-step.js";

/** What is asked for; `device` is where it is to be computed. */
export interface CudaWork {
  readonly kind: "check" | "train" | "decode";
  readonly device: "cuda" | "cpu";
  readonly tf32?: boolean;
  /** Which network: small ones of two kinds to compare with the CPU, GPT-2 124M, or a small one in its place. */
  readonly model: "small-gpt2" | "small-llama" | "gpt2";
  readonly batch: number;
  /** Tokens of a row; in decoding, of the context. */
  readonly sequence: number;
  readonly repeats: number;
  readonly cacheType?: CacheType | undefined;
  /** Whether to tell which operators ran where, instead of the time. */
  readonly profiled?: boolean;
}

export interface CudaAnswer {
  /** Of one step. */
  readonly milliseconds?: number;
  /** Of its parts. */
  readonly parts?: Readonly<Record<string, number>>;
  /** What the GPU holds in the end, of which nothing has been given back. */
  readonly usedMiB?: number | undefined;
  /** Largest difference from the CPU, of the largest value, by what is compared; of ids, how many differ. */
  readonly differences?: Readonly<Record<string, number>>;
  /** Calls and milliseconds by operator and provider. */
  readonly operators?: readonly (readonly [string, number, number])[];
}

const work = request<CudaWork>();
const { batch, sequence, repeats } = work;

function network(): Gpt2 | Llama {
  const shape = { hiddenSize: 128, numLayers: 2, numHeads: 4, vocabSize: 1024, contextLength: 256 };
  if (work.model === "small-gpt2") return new Gpt2(gpt2Config(shape));
  if (work.model === "small-llama") return new Llama(llamaConfig({ ...shape, numKeyValueHeads: 2 }));
  return new Gpt2(
    gpt2Config({ ...gpt2Sizes.gpt2.config, dropout: 0, embeddingDropout: 0, attentionDropout: 0 }),
  );
}

/** What the GPU holds of this process; undefined where there is no GPU. */
function usedMiB(): number | undefined {
  if (work.device === "cpu") return undefined;
  const query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits"];
  return Number(execFileSync("nvidia-smi", query, { encoding: "utf8" }).split("\n")[0]);
}

const { vocabSize } = network().config;
const ids = Int32Array.from({ length: batch * sequence }, (_, index) => (index * 7919) % vocabSize);
const labels = ids.map((id) => (id * 3 + 1) % vocabSize);

/** The loss, the gradients, and the weights after two steps. */
async function trained(runtime: Runtime): Promise<Record<string, ArrayLike<number>>> {
  const model = network();
  using weights = Weights.initialize(runtime, model, 1);
  using gradients = weights.like();
  const objective = nextTokenObjective(model, { batchSize: batch, sequenceLength: sequence });
  using step = await TrainingStep.create(objective, weights, gradients);
  using optimizer = await adamW(weights, gradients);
  const results: Record<string, ArrayLike<number>> = {};
  for (let index = 0; index < 2; index++) {
    const sums = await step.run(tokenBatch(ids, labels, [batch, sequence]));
    results[`loss ${index + 1}`] = Object.values(sums);
    results[`gradients ${index + 1}`] = await gradients.flat.read();
    await optimizer.update({ learningRate: 1e-3 });
  }
  results["weights"] = await weights.flat.read();
  return results;
}

/** The ids that are written greedily after some prompts, each twice: the second time a slot goes on from the first. */
async function written(runtime: Runtime, cacheType: CacheType, bits?: 4 | 8 | "nf4"): Promise<number[]> {
  const model = network();
  using whole = Weights.initialize(runtime, model, 3);
  const blockSize = bits === 8 ? ("row" as const) : undefined;
  const packed = bits === undefined ? undefined : await quantizeWeights(model, whole, { bits, blockSize });
  const weights = packed ?? whole;
  using decoder = await Decoder.create({ model, weights, slots: 2, capacity: 96, cacheType });
  const prompts = [21, 9, 30].map((length) => Array.from({ length }, (_, index) => (index * 37) % vocabSize));
  const found: number[] = [];
  for (const more of [[], [5, 6]]) {
    const rows = prompts.map((prompt) => [...prompt, ...more]);
    const texts = rows.map((): number[] => []);
    for await (const { row, id } of generate(decoder, rows, { temperature: 0, maxNewTokens: 24 }))
      if (id !== undefined) texts[row]!.push(id);
    found.push(...texts.flat());
  }
  packed?.dispose();
  return found;
}

async function check(runtime: Runtime): Promise<CudaAnswer> {
  const differences: Record<string, number> = {};
  const [own, expected] = [await trained(runtime), await trained(runtime.cpu)];
  for (const [name, values] of Object.entries(expected)) {
    let [scale, error] = [0, 0];
    for (let index = 0; index < values.length; index++) {
      scale = Math.max(scale, Math.abs(values[index]!));
      error = Math.max(error, Math.abs(values[index]! - own[name]![index]!));
    }
    differences[name] = error / scale;
  }
  for (const [cacheType, bits] of [
    ["float32", undefined],
    ["float16", undefined],
    ["int8", undefined],
    ["float32", 8],
    ["float32", 4],
    ["float32", "nf4"],
  ] as const) {
    const [ours, theirs] = [
      await written(runtime, cacheType, bits),
      await written(runtime.cpu, cacheType, bits),
    ];
    const wrong = theirs.filter((id, index) => id !== ours[index]).length;
    differences[`ids of ${theirs.length}, ${cacheType} cache${bits ? `, weights in ${bits}` : ""}`] = wrong;
  }
  return { differences };
}

async function train(runtime: Runtime): Promise<CudaAnswer> {
  const sizes = { batch, sequence, warmUps: 2, repeats, memoryMiB: usedMiB };
  const { seconds, parts, memoryMiB } = await timedStep(runtime, network(), ids, sizes);
  return { milliseconds: 1000 * seconds, parts, usedMiB: memoryMiB };
}

async function decode(runtime: Runtime): Promise<CudaAnswer> {
  const model = network();
  using weights = Weights.initialize(runtime, model, 1);
  const capacity = sequence + repeats + 8;
  using decoder = await Decoder.create({
    model,
    weights,
    slots: batch,
    capacity,
    cacheType: work.cacheType,
  });
  const slots = Array.from({ length: batch }, () => decoder.open());
  const start = performance.now();
  for (const [row, slot] of slots.entries())
    await decoder.read(slot, [...ids.subarray(row * sequence, (row + 1) * sequence)]);
  const read = performance.now() - start;
  const next = slots.map((_, row) => row + 1);
  await decoder.step(slots, next);
  const seconds = await timed(repeats, () => decoder.step(slots, next));
  return {
    milliseconds: 1000 * median(seconds),
    parts: { "prompts, with the first run": read },
    usedMiB: usedMiB(),
  };
}

/** A runtime whose programs write a profile of all their runs into `folder`. */
function profiling(runtime: Runtime, folder: string): Runtime {
  const profiled = Object.create(runtime) as Runtime;
  profiled.createProgram = (model, options) =>
    runtime.createProgram(model, {
      ...options,
      profile: path.join(folder, (options?.name ?? "program").replaceAll(/\W+/g, "-")),
    });
  return profiled;
}

interface ProfileEvent {
  readonly cat: string;
  readonly name: string;
  readonly dur: number;
  readonly args?: { readonly op_name?: string; readonly provider?: string };
}

/** Which operators ran where, by the profiles of a folder. */
function operatorsOf(folder: string): CudaAnswer["operators"] {
  const found = new Map<string, [number, number]>();
  for (const file of readdirSync(folder)) {
    const program = file.replace(/_\d{4}-.*/, "");
    for (const { cat, name, dur, args } of JSON.parse(
      readFileSync(path.join(folder, file), "utf8"),
    ) as ProfileEvent[]) {
      if (cat !== "Node" || !name.endsWith("kernel_time") || args?.op_name === undefined) continue;
      const key = `${program} ${args.op_name} ${(args.provider ?? "").replace("ExecutionProvider", "")}`;
      const [calls, time] = found.get(key) ?? [0, 0];
      found.set(key, [calls + 1, time + dur / 1000]);
    }
  }
  return [...found].map(([key, [calls, time]]) => [key, calls, time] as const).sort((a, b) => b[2] - a[2]);
}

const kinds = { check, train, decode };
const runtime = createRuntime({ device: work.device, tf32: work.tf32 ?? false });
if (work.profiled) {
  const folder = mkdtempSync(path.join(os.tmpdir(), "lineage-cuda-"));
  await kinds[work.kind](profiling(runtime, folder));
  respond({ operators: operatorsOf(folder) } satisfies CudaAnswer);
  rmSync(folder, { recursive: true });
} else respond(await kinds[work.kind](runtime));
