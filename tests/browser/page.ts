import {
  Decoder,
  Gpt2,
  TrainingStep,
  Weights,
  adamW,
  createRuntime,
  generate,
  gpt2Config,
  graph,
  lossOf,
  tokenBatch,
  nextTokenObjective,
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
  const decoder = await Decoder.create({ model, weights, capacity: 16 });
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

/** What the runtime says to mistakes: one sentence each. */
async function mistakes(): Promise<string[]> {
  const runtime = createRuntime();
  const ids = graph.input("ids", "int64", ["n"]);
  const table = graph.input("table", "float32", [4, 2]);
  const y = graph.withScope({ path: "model.embedding" }, () => graph.gather(table, ids));
  const program = await graph.compile(
    runtime,
    { y, sum: ids.add(graph.input("more", "int64", ["n"])) },
    { name: "demo" },
  );
  const given = {
    ids: runtime.createTensor("int64", [1], BigInt64Array.of(99n)),
    more: runtime.createTensor("int64", [1]),
    table: runtime.createTensor("float32", [4, 2]),
  };
  const two = runtime.createTensor("int64", [2]);
  const attempts: (() => unknown)[] = [
    () => program.run(given),
    () => program.run({ ...given, table: two }),
    () => program.run({ ...given, more: two }),
    () => program.run({ ids: two, more: two }),
    () => program.run(given, { z: two }),
    () => runtime.createTensor("float32", [-1]),
    () => runtime.createProgram(new Uint8Array(5)),
    () => createRuntime({ device: "cuda" }),
    () => program.run(given, {}, { signal: AbortSignal.abort(new Error("enough")) }),
    () => {
      two.dispose();
      return program.run({ ...given, ids: two, more: two });
    },
    () => {
      program.dispose();
      return program.run(given);
    },
  ];
  const messages: string[] = [];
  for (const attempt of attempts) {
    try {
      await attempt();
      messages.push("no error");
    } catch (error) {
      messages.push((error as Error).message);
    }
  }
  return messages;
}

Object.assign(globalThis, { run, runExported, mistakes });
