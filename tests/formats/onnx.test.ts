import { mkdtemp, rm, stat } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import * as ort from "onnxruntime-node";
import { expect, it } from "vitest";
import { compile, input } from "../../src/graph/index.js";
import { saveOnnx } from "../../src/formats/index.js";
import { Gpt2, gpt2Config } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";

it("an exported model, weights in a file beside it, gives the same logits in plain onnxruntime-node", async () => {
  const runtime = createRuntime();
  const model = new Gpt2(
    gpt2Config({ hiddenSize: 32, numLayers: 2, numHeads: 2, vocabSize: 50, contextLength: 16 }),
  );
  using weights = Weights.initialize(runtime, model, 3);
  const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  try {
    const file = path.join(folder, "gpt2.onnx");
    const outputs = { logits: model.forward(input("inputIds", "int64", ["batch", "sequence"])) };
    await saveOnnx(file, outputs, { weights });
    expect((await stat(`${file}_data`)).size).toBeGreaterThan(weights.layout.size * 3.5);
    const session = await ort.InferenceSession.create(file);
    const ids = BigInt64Array.of(1n, 2n, 3n, 4n, 5n, 6n);
    const plain = await session.run({ inputIds: new ort.Tensor("int64", ids, [2, 3]) });
    using program = await compile(runtime, outputs);
    const own = await program.run({
      ...weights.tensors,
      inputIds: runtime.createTensor("int64", [2, 3], ids),
    });
    expect(plain["logits"]!.dims).toEqual([2, 3, 50]);
    const [a, b] = [plain["logits"]!.data as Float32Array, (await own["logits"]!.read()) as Float32Array];
    expect(Math.max(...a.map((value, index) => Math.abs(value - b[index]!)))).toBeLessThan(1e-5);
  } finally {
    await rm(folder, { recursive: true });
  }
});
