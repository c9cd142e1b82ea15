import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import type { DType } from "../../src/base/dtype.js";
import { type Tensor, compile, crossEntropy, gradients, input } from "../../src/graph/index.js";
import { SafetensorsFile } from "../../src/formats/index.js";
import { type Module, Weights, namedParameters } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";

export const runtime = createRuntime();

const reference = (name: string) => fileURLToPath(new URL(`../reference/values/${name}`, import.meta.url));

/** A committed JSON file of `tests/reference/values`. */
export const referenceJson = (name: string): unknown => JSON.parse(readFileSync(reference(name), "utf8"));

/** Tensors of one recorded task by the first part of their names. */
export interface Recorded {
  readonly inputs: ReadonlyMap<string, Values>;
  readonly weights: ReadonlyMap<string, Values>;
  readonly outputs: ReadonlyMap<string, Values>;
  readonly gradients: ReadonlyMap<string, Values>;
}
export interface Values {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array | Uint8Array;
}

/** What `tests/reference/encoders.py` recorded of one task. */
export async function recorded(name: string): Promise<Recorded> {
  const parts = { inputs: new Map(), weights: new Map(), outputs: new Map(), gradients: new Map() };
  const file = await SafetensorsFile.open(reference(name));
  for (const [key, { dtype, shape, byteLength }] of file.header.tensors) {
    const bytes = new Uint8Array(byteLength);
    await file.readInto(key, bytes);
    const [part, rest] = [key.slice(0, key.indexOf("/")), key.slice(key.indexOf("/") + 1)];
    const data =
      dtype === "int64"
        ? Int32Array.from(new BigInt64Array(bytes.buffer), Number)
        : new Float32Array(bytes.buffer);
    parts[part as keyof Recorded].set(rest, { shape, data });
  }
  return parts;
}

/** The largest difference relative to the largest reference value. */
export function relativeError(got: ArrayLike<number>, wanted: ArrayLike<number>): number {
  let [worst, scale] = [0, 0];
  expect(got.length).toBe(wanted.length);
  Array.from(wanted).forEach((value, index) => {
    worst = Math.max(worst, Math.abs(got[index]! - value));
    scale = Math.max(scale, Math.abs(value));
  });
  return worst / scale;
}

/** Tensors of the recorded inputs, by the names of Hugging Face transformers; masks are bool, states float32, the rest int32. */
export function graphInputs(task: Recorded, symbolic = false): Record<string, Tensor> {
  const named = (shape: readonly number[]) =>
    symbolic ? ["batch", "sequence"].slice(0, shape.length) : shape;
  return Object.fromEntries(
    [...task.inputs].map(([name, { shape, data }]) => [name, input(name, dtypeOf(name, data), named(shape))]),
  );
}
const dtypeOf = (name: string, data: Values["data"]): DType =>
  name.endsWith("_mask") ? "bool" : data instanceof Float32Array ? "float32" : "int32";

/** The encoder's inputs among them. */
export const encoderInputs = (given: Record<string, Tensor>) => ({
  inputIds: given["input_ids"]!,
  attentionMask: given["attention_mask"],
  tokenTypeIds: given["token_type_ids"],
});

/** The recorded weights in a model's own buffer. Fails where a name or shape is not the model's. */
export function weightsOf(model: Module, task: Recorded): Weights {
  const weights = Weights.allocate(runtime, model);
  expect(Object.keys(weights.tensors).sort()).toEqual([...task.weights.keys()].sort());
  for (const [name, { shape, data }] of task.weights) {
    expect(weights.get(name).shape, name).toEqual(shape);
    weights.get(name).write(data as Float32Array);
  }
  return weights;
}

/**
 * Holds a model to a recorded task: every output, the loss and the gradient of every parameter. `build` makes the outputs,
 * by their recorded names, and the loss. `realOnly` leaves outputs at padding out, of which there is no right value.
 */
export async function expectAgreement(
  task: Recorded,
  model: Module,
  build: (given: Record<string, Tensor>) => Record<string, Tensor> & { loss: Tensor },
  { fused = true, symbolic = false, realOnly = false } = {},
): Promise<void> {
  using weights = weightsOf(model, task);
  const outputs = build(graphInputs(task, symbolic));
  const parameters = [...namedParameters(model)];
  const found = gradients(
    outputs.loss,
    parameters.map(([, parameter]) => parameter.tensor),
    // A task does not read all that a network has: XLM's languages, another task's pooler.
    { allowUnused: true },
  );
  const all = {
    ...outputs,
    ...Object.fromEntries(parameters.map(([name], index) => [`${name}.gradient`, found[index]!])),
  };
  using program = await compile(runtime, all, { fused });
  const given = Object.fromEntries(
    [...task.inputs].map(([name, { shape, data }]) => [
      name,
      dtypeOf(name, data) === "bool"
        ? runtime.createTensor("bool", shape, Uint8Array.from(data))
        : data instanceof Float32Array
          ? runtime.createTensor("float32", shape, data)
          : runtime.createTensor("int32", shape, data as Int32Array),
    ]),
  );
  const results = await program.run({ ...weights.tensors, ...given });
  for (const name of Object.keys(outputs)) {
    const wanted = task.outputs.get(name)!;
    const select = (values: ArrayLike<number>) =>
      realOnly && wanted.shape.length >= 2 ? atRealTokens(values, wanted.shape, task) : values;
    const got = select((await results[name]!.read()) as Float32Array);
    expect(relativeError(got, select(wanted.data)), name).toBeLessThan(2e-5);
  }
  for (const [name, { trainable }] of parameters) {
    if (!trainable) continue;
    const got = (await results[`${name}.gradient`]!.read()) as Float32Array;
    const wanted = task.gradients.get(name);
    // A parameter that softmax does not see has no recorded gradient: it is nothing but rounding.
    if (wanted) expect(relativeError(got, wanted.data), name).toBeLessThan(1e-4);
    else expect(Math.max(...got.map(Math.abs)), name).toBeLessThan(1e-6);
  }
  for (const tensor of [...Object.values(results), ...Object.values(given)]) tensor.dispose();
}

/** The values of `[batch, sequence, ...]` at tokens that are no padding. */
function atRealTokens(values: ArrayLike<number>, shape: readonly number[], task: Recorded): number[] {
  const mask = task.inputs.get("attention_mask")!;
  const perToken = values.length / mask.data.length;
  if (shape.slice(0, 2).join() !== mask.shape.join()) return Array.from(values);
  return Array.from(values).filter((_, index) => mask.data[Math.floor(index / perToken)] === 1);
}

/** Mean cross-entropy of start and end, as span heads are trained. */
export function spanLoss(logits: Tensor, starts: Tensor, ends: Tensor): Tensor {
  const [start, end] = logits.split(2, 2).map((part) => part.reshape(part.shape.slice(0, 2)));
  return crossEntropy(start!, starts).add(crossEntropy(end!, ends)).mul(0.5);
}
