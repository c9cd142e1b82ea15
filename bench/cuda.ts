/**
 * The CUDA device against the processor, and against PyTorch on the same GPU:
 *
 *   npm run bench -- cuda --python PATH          on a machine with an NVIDIA GPU
 *   node dist/bench/cuda.js --smoke              the processor in the GPU's place: checks that everything runs
 *   node dist/bench/cuda.js --only check,nodes   these parts of: check, nodes, train, decode
 *
 * `check` compares the loss, gradients and weights of two training steps of small networks, and what they write greedily,
 * with the processor's. `nodes` tells which operators a training step and decoding run where. `train` and `decode` measure
 * GPT-2 124M with random weights in float32, once with products in float32 and once in TensorFloat-32.
 */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { LineageError } from "../src/base/errors.js";
import { createRuntime } from "../src/runtime/index.js";
import type { CudaAnswer, CudaWork } from "./cuda-work.js";
import { inOwnProcess, median } from "./harness.js";

const { values: options } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    only: { type: "string", default: "check,nodes,train,decode" },
    smoke: { type: "boolean", default: false },
  },
});
const wanted = new Set(options.only.split(","));
const device = options.smoke ? "cpu" : "cuda";
const model = options.smoke ? "small-gpt2" : "gpt2";
const [trainRepeats, decodeRepeats] = options.smoke ? [1, 2] : [10, 64];

type Work = Omit<CudaWork, "device">;

const ask = (work: Work): Promise<CudaAnswer | undefined> =>
  inOwnProcess<CudaAnswer>("cuda-work.js", { ...work, device });

interface TorchAnswer {
  readonly milliseconds: number;
  readonly usedMiB: number | null;
}

/** PyTorch on all pieces of work, once with products in float32 and once in TensorFloat-32; none where it is not here. */
async function torch(works: readonly Work[]): Promise<TorchAnswer[]> {
  const script = fileURLToPath(new URL("../../bench/gpt2-cuda.py", import.meta.url));
  const child: ChildProcessWithoutNullStreams = spawn(options.python, [script, device]);
  child.on("error", () => undefined);
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const errors: string[] = [];
  child.stderr.on("data", (data: Buffer) => errors.push(data.toString()));
  const first = await lines.next();
  if (first.done) {
    console.error(`  PyTorch is not here: ${errors.join("").trim().split("\n").at(-1) ?? ""}`);
    return [];
  }
  const answers: TorchAnswer[] = [];
  for (const { kind, batch, sequence, repeats } of works)
    for (const tf32 of [false, true]) {
      child.stdin.write(
        `${JSON.stringify({ kind, small: options.smoke, batch, sequence, repeats, tf32 })}\n`,
      );
      const line = await lines.next();
      if (line.done) throw new Error(`PyTorch ended: ${errors.join("").slice(-1000)}`);
      const { seconds, usedMiB } = JSON.parse(line.value) as { seconds: number[]; usedMiB: number | null };
      answers.push({ milliseconds: 1000 * median(seconds), usedMiB });
    }
  // What follows is to have the GPU for itself.
  const ended = once(child, "exit");
  child.stdin.end();
  await ended;
  return answers;
}

const shown = (ms: number | undefined): string => (ms === undefined ? "failed" : `${ms.toFixed(2)} ms`);
const memory = (used: number | null | undefined): string => (used ? `, ${used} MiB` : "");

/** @param others PyTorch on the same work, without TensorFloat-32 and with it */
async function compare(
  title: string,
  work: Work,
  ways: readonly Partial<Work>[],
  others: readonly TorchAnswer[],
): Promise<void> {
  for (const [index, tf32] of [false, true].entries()) {
    const other = others[index];
    // What the cache is kept as does not change how products are computed: once is enough.
    for (const way of tf32 ? ways.slice(0, 1) : ways) {
      const own = await ask({ ...work, ...way, tf32 });
      const parts = Object.entries(own?.parts ?? {}).map(([name, ms]) => `${name} ${ms.toFixed(2)}`);
      const name = [title, way.cacheType && `${way.cacheType} cache`, tf32 ? "TF32" : "float32"];
      console.log(
        `  ${name.filter(Boolean).join(", ")}: ${shown(own?.milliseconds)}${memory(own?.usedMiB)} (${parts.join(", ")}); ` +
          `PyTorch ${shown(other?.milliseconds)}${memory(other?.usedMiB)}` +
          (own?.milliseconds && other
            ? `: ${(other.milliseconds / own.milliseconds).toFixed(2)}x its speed`
            : ""),
      );
    }
  }
}

if (device === "cuda") {
  try {
    createRuntime({ device });
  } catch (error) {
    if (!(error instanceof LineageError)) throw error;
    console.log(`  not measured: ${error.message}`);
    process.exit();
  }
}
if (wanted.has("check"))
  for (const small of ["small-gpt2", "small-llama"] as const)
    for (const tf32 of [false, true]) {
      const answer = await ask({ kind: "check", model: small, batch: 4, sequence: 48, repeats: 1, tf32 });
      const found = Object.entries(answer?.differences ?? { failed: NaN });
      console.log(
        `  ${small}, ${tf32 ? "TF32" : "float32"}: ${found.map(([name, value]) => `${name} ${value.toPrecision(2)}`).join(", ")}`,
      );
    }
if (wanted.has("nodes"))
  for (const [kind, network, cacheType] of [
    ["train", "small-gpt2", undefined],
    ["train", "small-llama", undefined],
    ["decode", "small-gpt2", "float32"],
    ["decode", "small-llama", "float16"],
  ] as const) {
    const answer = await ask({
      ...{ kind, model: network, cacheType, profiled: true },
      ...{ batch: 2, sequence: 32, repeats: 4 },
    });
    const elsewhere = answer?.operators?.filter(([name]) => !name.endsWith(" CUDA")) ?? [];
    const most = answer?.operators?.slice(0, 8) ?? [];
    const list = (entries: typeof most): string =>
      entries.map(([name, calls, ms]) => `${name} x${calls} ${ms.toFixed(2)} ms`).join("; ");
    console.log(`  ${kind}, ${network}: not on CUDA: ${list(elsewhere)}\n    longest: ${list(most)}`);
  }
const sizes: readonly (readonly [number, number])[] = options.smoke
  ? [[2, 32]]
  : [
      [4, 256],
      [8, 1024],
    ];
const training = sizes.map(([batch, sequence]): Work => ({
  ...{ kind: "train", model, batch, sequence, repeats: trainRepeats },
}));
const context = options.smoke ? 32 : 512;
const decoding = (options.smoke ? [2] : [1, 16]).map((batch): Work => ({
  ...{ kind: "decode", model, batch, sequence: context, repeats: decodeRepeats },
}));
const caches = [{ cacheType: "float32" }, { cacheType: "float16" }] as const;
const measured = [...(wanted.has("train") ? training : []), ...(wanted.has("decode") ? decoding : [])];
const others = measured.length > 0 ? await torch(measured) : [];
for (const [index, work] of measured.entries()) {
  const { kind, batch, sequence } = work;
  await compare(
    kind === "train"
      ? `training step, ${batch} x ${sequence} tokens`
      : `decoding at ${sequence} tokens, batch ${batch}`,
    work,
    kind === "train" ? [{}] : caches,
    others.slice(2 * index, 2 * index + 2),
  );
}
