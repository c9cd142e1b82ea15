import { expect, it } from "vitest";
import { tokenBatch } from "../../src/data/index.js";
import { loadWeights } from "../../src/formats/index.js";
import { Decoder, generate } from "../../src/generation/index.js";
import { compile, input, sum } from "../../src/graph/index.js";
import { type CausalLm, namedParameters } from "../../src/nn/index.js";
import { nextTokenObjective } from "../../src/objectives/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { TrainingStep } from "../../src/training/index.js";
import { Reference, relativeError } from "../support/reference.js";

export interface DecoderValues {
  readonly inputIds: number[][];
  readonly labels: number[][];
  readonly loss: number;
  readonly prompt: number[];
  readonly greedy: number[];
}

const runtime = createRuntime();

/**
 * Holds a decoder to the values of PyTorch in `tests/reference/values/NAME`.
 * @param lossDigits decimals of the loss that agree
 */
export function agreesWithReference(
  name: string,
  create: (config: unknown) => CausalLm,
  { lossDigits = 4 } = {},
): void {
  const reference = new Reference(name);
  const values = reference.json("values.json") as DecoderValues;
  const model = create(reference.json("config.json"));
  const load = () => loadWeights(runtime, model, reference.path());
  const batch = {
    inputIds: Int32Array.from(values.inputIds.flat()),
    labels: Int32Array.from(values.labels.flat()),
  };
  const counted = values.labels.flat().filter((label) => label !== -100).length;

  it.each([true, false])("in its logits and loss (fused operators: %s)", async (fused) => {
    using weights = await load();
    const ids = input("inputIds", "int32", [2, 16]);
    const labels = input("labels", "int32", [2, 16]);
    using program = await compile(
      runtime,
      { logits: model.forward(ids), loss: sum(model.losses(ids, labels)) },
      { fused },
    );
    const results = await program.run({
      ...weights.tensors,
      inputIds: runtime.createTensor("int32", [2, 16], batch.inputIds),
      labels: runtime.createTensor("int32", [2, 16], batch.labels),
    });
    const wanted = (await reference.tensors("logits.safetensors")).get("logits")!;
    expect(relativeError((await results["logits"]!.read()) as Float32Array, wanted)).toBeLessThan(1e-5);
    expect(Number((await results["loss"]!.read())[0]) / counted).toBeCloseTo(values.loss, lossDigits);
  });

  it("in the gradient of every parameter", async () => {
    using weights = await load();
    using found = weights.like();
    using step = await TrainingStep.create(nextTokenObjective(model), weights, found);
    await step.run(tokenBatch(batch.inputIds, batch.labels, [2, 16]));
    const wanted = await reference.tensors("gradients.safetensors");
    expect([...wanted.keys()].sort()).toEqual([...namedParameters(model).keys()].sort());
    for (const [parameter, gradient] of wanted) {
      expect(relativeError(found.get(parameter).view(), gradient), parameter).toBeLessThan(1e-4);
    }
  });

  it("in the ids that it generates", async () => {
    using weights = await load();
    using decoder = await Decoder.create({ model, weights, capacity: 64 });
    const ids: number[] = [];
    const maxNewTokens = values.greedy.length;
    for await (const { id } of generate(decoder, [values.prompt], { temperature: 0, maxNewTokens })) {
      if (id !== undefined) ids.push(id);
    }
    expect(ids).toEqual(values.greedy);
  });
}
