import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import fc from "fast-check";
import * as ort from "onnxruntime-node";
import { expect, it } from "vitest";
import { LineageError } from "../../src/base/errors.js";
import { compile, input } from "../../src/graph/index.js";
import { readOnnx, saveOnnx } from "../../src/formats/index.js";
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

it("a file whose bytes were changed is read or refused, and never more", async () => {
  const runtime = createRuntime({ threads: 1 });
  const model = new Gpt2(
    gpt2Config({ hiddenSize: 16, numLayers: 1, numHeads: 2, vocabSize: 40, contextLength: 16 }),
  );
  using weights = Weights.initialize(runtime, model, 3);
  const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  try {
    const file = path.join(folder, "gpt2.onnx");
    const outputs = { logits: model.forward(input("inputIds", "int64", ["batch", "sequence"])) };
    await saveOnnx(file, outputs, { weights });
    const bytes = await readFile(file);
    // Where the places of external tensors are written out.
    const marks = [...bytes.toString("latin1").matchAll(/location|offset|length|gpt2\.onnx_data/g)].map(
      ({ index }) => index,
    );
    const place = fc.oneof(
      fc.nat(bytes.length - 1),
      fc
        .tuple(fc.constantFrom(...marks), fc.nat(40))
        .map(([mark, by]) => Math.min(bytes.length - 1, mark + by)),
    );
    const mutated = path.join(folder, "mutated.onnx");
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(place, fc.nat(255)), { minLength: 1, maxLength: 6 }),
        fc.nat(bytes.length),
        async (changes, length) => {
          const changed = Buffer.from(bytes);
          for (const [at, value] of changes) changed[at] = value;
          await writeFile(mutated, length % 4 === 0 ? changed.subarray(0, length) : changed);
          await readOnnx(mutated).catch((error: unknown) => {
            expect(error).toBeInstanceOf(LineageError);
          });
        },
      ),
      { numRuns: 400 },
    );
  } finally {
    await rm(folder, { recursive: true });
  }
});
