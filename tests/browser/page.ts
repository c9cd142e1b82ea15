import {
  Decoder,
  Gpt2,
  TrainingStep,
  Weights,
  adamW,
  createRuntime,
  generate,
  gpt2Config,
  lossOf,
  nextTokenObjective,
  tokenBatch,
} from "../../src/browser.js";
import * as ort from "onnxruntime-web";

/** Trains on a text that repeats five tokens, then continues it. */
async function run(): Promise<{ losses: number[]; ids: number[]; version: string }> {
  const runtime = createRuntime();
  const model = new Gpt2(
    gpt2Config({ hiddenSize: 32, numLayers: 1, numHeads: 2, vocabSize: 8, contextLength: 16, dropout: 0 }),
  );
  const weights = Weights.initialize(runtime, model, 1);
  const gradients = weights.like();
  const objective = nextTokenObjective(model);
  const step = await TrainingStep.create(objective, weights, gradients);
  const optimizer = await adamW(weights, gradients);
  const tokens = Int32Array.from({ length: 33 }, (_, index) => index % 5);
  const batch = tokenBatch(tokens.slice(0, 32), tokens.slice(1), [2, 16]);
  const losses: number[] = [];
  for (let seed = 0; seed < 60; seed++) {
    losses.push(lossOf(objective, await step.run(batch, { seed }), batch.counts).loss);
    await optimizer.update({ learningRate: 1e-2 });
  }
  const decoder = await Decoder.create(model, weights, { batch: 1, capacity: 16 });
  const ids: number[] = [];
  for await (const { id } of generate(decoder, [[0, 1, 2]], { temperature: 0, maxNewTokens: 7 }))
    if (id !== undefined) ids.push(id);
  return { losses, ids, version: runtime.version };
}

/** Runs an exported model with onnxruntime-web alone. */
async function runExported(ids: number[]): Promise<number[]> {
  const session = await ort.InferenceSession.create("/model.onnx", {
    externalData: [{ path: "model.onnx_data", data: "/model.onnx_data" }],
  });
  const { logits } = await session.run({
    inputIds: new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]),
  });
  return [...(logits!.data as Float32Array)];
}

Object.assign(globalThis, { run, runExported });
