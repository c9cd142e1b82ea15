/** One case of the bench of adapters, in a process of its own. */
import { readFileSync, writeFileSync } from "node:fs";
import { Random } from "../src/base/random.js";
import { type Batch, type PartlyTrained, packedBatches } from "../src/data/index.js";
import type { PackedWeight } from "../src/graph/index.js";
import { Llama, type LlamaConfig } from "../src/models/index.js";
import { Weights, addLora, namedParameters } from "../src/nn/index.js";
import { packedAnswersObjective, withAdapter } from "../src/objectives/index.js";
import { normalFloatWeight, packableWeights } from "../src/quantization/index.js";
import { type DeviceTensor, createRuntime } from "../src/runtime/index.js";
import { GradientNorm, TrainingStep, adamW, clippingFactor } from "../src/training/index.js";
import { peakMiB, request, respond } from "./harness.js";

/** @internal What `adapter-training.ts` asks. */
export interface AdapterCase {
  readonly config: LlamaConfig;
  readonly kind: "lora" | "qlora";
  readonly rank: number;
  /** Tokens of the prompt and of the answer of each conversation. */
  readonly rows: readonly (readonly [prompt: number, answer: number])[];
  /** Rows and tokens of a batch into which conversations are packed. */
  readonly shape: { readonly batchSize: number; readonly sequenceLength: number };
  readonly gradientCheckpointing: boolean;
}

const { config, kind, rank, rows, shape, gradientCheckpointing } = request<AdapterCase>();
const runtime = createRuntime();
const random = new Random(1);
const model = new Llama(config);

// Small numbers that repeat: the speed of a product does not depend on them.
const pattern = new Float32Array(65_521);
random.fillUniform(pattern, -0.02, 0.02);
function frozen(shapeOfIt: readonly number[]): DeviceTensor<"float32"> {
  const tensor = runtime.createTensor("float32", shapeOfIt);
  const view = tensor.view();
  for (let at = 0; at < view.length; at += pattern.length)
    view.set(pattern.subarray(0, Math.min(pattern.length, view.length - at)), at);
  return tensor;
}
function inFourBits([outputs, inputs]: readonly number[]): PackedWeight {
  const values = new Uint8Array((outputs! * inputs!) / 2);
  for (let i = 0; i < values.length; i++) values[i] = (i * 167) ^ (i >> 8);
  const scales = new Float32Array((outputs! * inputs!) / 64).fill(0.02);
  const layout = { rows: outputs!, columns: inputs!, transposed: false, blockSize: 64 };
  return normalFloatWeight(runtime, { values, scales }, layout, true);
}

const packable = packableWeights(model);
const tensors: Record<string, DeviceTensor> = {};
const packed: Record<string, PackedWeight> = {};
for (const [name, parameter] of namedParameters(model)) {
  const linear = packable.get(name)?.kind === "linear" && !name.startsWith("lm_head");
  if (kind === "qlora" && linear) packed[name] = inFourBits(parameter.shape);
  else tensors[name] = frozen(parameter.shape);
}
const adapter = addLora(model, { rank, alpha: 2 * rank, targets: "all-linear" });
const base = { runtime, tensors: {}, constants: { tensors, packed } };
const weights = Weights.partlyFrozen(model, base, 1);
const gradients = weights.like();
const objective = withAdapter(packedAnswersObjective(model, shape), adapter);
const step = await TrainingStep.create(objective, weights, gradients, { gradientCheckpointing });
const optimizer = await adamW(weights, gradients);
const norm = await GradientNorm.create(runtime, gradients);

const documents = rows.map(([prompt, answer]): PartlyTrained => ({
  tokens: Int32Array.from({ length: prompt + answer }, () => 3 + random.integer(config.vocabSize - 3)),
  trained: Uint8Array.from({ length: prompt + answer }, (_, i) => Number(i >= prompt)),
}));
const batches = [...packedBatches(documents, shape)];
async function train(batch: Batch): Promise<void> {
  await step.run(batch);
  const length = await norm.measure();
  await optimizer.update({ learningRate: 1e-4, gradientScale: clippingFactor(length, 1) });
}

// The most memory from here on, where the system counts it anew.
const status = "/proc/self/status";
if (process.platform === "linux") writeFileSync("/proc/self/clear_refs", "5");
await train(batches.reduce((a, b) => (b.counts["tokens"]! > a.counts["tokens"]! ? b : a)));
const [start, used] = [performance.now(), process.cpuUsage()];
for (const batch of batches) await train(batch);
const seconds = [(performance.now() - start) / 1000];
const { user, system } = process.cpuUsage(used);
const peak =
  process.platform === "linux"
    ? Number(/VmHWM:\s+(\d+)/.exec(readFileSync(status, "utf8"))![1]) / 1024
    : peakMiB();
respond({ seconds, processor: (user + system) / 1e6, peakMiB: peak, batches: batches.length });
