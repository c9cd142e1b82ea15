import { describe, expect, it } from "vitest";
import { type Tensor, compile, crossEntropy, input, logicalNot } from "../../src/graph/index.js";
import {
  Xlnet,
  xlnet,
  xlnetConfig,
  xlnetForPretraining,
  xlnetSizes,
  xlnetTable,
} from "../../src/models/index.js";
import { Weights, countParameters } from "../../src/nn/index.js";
import {
  type Recorded,
  encoderInputs,
  expectAgreement,
  recorded,
  referenceJson,
  relativeError,
  runtime,
  spanLoss,
} from "./encoders.js";

const config = xlnetTable.read(referenceJson("xlnet/config.json"));

describe("XLNet agrees with Hugging Face transformers on random weights", () => {
  it.each([
    { memory: false, fused: true },
    { memory: true, fused: true },
    { memory: true, fused: false },
  ])("in its two streams under a permutation (%o)", async ({ memory, fused }) => {
    const model = xlnetForPretraining(config);
    const task = await recorded(`xlnet/streams${memory ? "WithMemory" : ""}.safetensors`);
    await expectAgreement(withMemoryOutputs(task), model, streamsOf(model, memory), { fused });
  });

  it.each([{ fused: true }, { fused: false }])(
    "in two streams with memory and clamped distances, half of the rows read backwards (%o)",
    async (how) => {
      const model = xlnetForPretraining({ ...config, bidirectionalData: true, clampLength: 6 });
      const task = await recorded("xlnet/streamsBothWays.safetensors");
      await expectAgreement(withMemoryOutputs(task), model, streamsOf(model, true), how);
    },
  );

  it("in classes of sequences, padded on the left", async () => {
    const model = xlnet.heads.classify.create(config, 3);
    await expectAgreement(await recorded("xlnet/sequence.safetensors"), model, (given) => {
      const logits = model.forward(encoderInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    });
  });

  it.each([{ symbolic: false }, { symbolic: true }])("in classes of tokens (%o)", async (how) => {
    const model = xlnet.heads.tag.create(config, 3);
    const build = (given: Record<string, Tensor>) => {
      const logits = model.forward(encoderInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    };
    await expectAgreement(await recorded("xlnet/token.safetensors"), model, build, how);
  });

  it("in spans", async () => {
    const model = xlnet.heads.span.create(config, 2);
    await expectAgreement(await recorded("xlnet/span.safetensors"), model, (given) => {
      const logits = model.forward(encoderInputs(given));
      return { loss: spanLoss(logits, given["start_positions"]!, given["end_positions"]!) };
    });
  });

  it("in multiple choice", async () => {
    const model = xlnet.heads.choice.create(config, 2);
    await expectAgreement(await recorded("xlnet/choice.safetensors"), model, (given) => {
      const logits = model.forward(encoderInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    });
  });
});

/** Logits and loss of both streams, and the new memory under names that no input has. */
const streamsOf =
  (model: ReturnType<typeof xlnetForPretraining>, memory: boolean) =>
  (given: Record<string, Tensor>): Record<string, Tensor> & { loss: Tensor } => {
    const states = model.encoder.streams({
      inputIds: given["input_ids"]!,
      tokenTypeIds: given["token_type_ids"],
      visible: logicalNot(given["perm_mask"]!),
      targets: given["targets"]!,
      memory: memory ? [given["memory.0"]!, given["memory.1"]!] : undefined,
    });
    const logits = model.head.forward(states.hidden);
    const left = Object.fromEntries(states.memory.map((state, layer) => [`left.${layer}`, state]));
    return { logits, loss: crossEntropy(logits, given["labels"]!), ...left };
  };

function withMemoryOutputs(task: Recorded): Recorded {
  const outputs = new Map(task.outputs);
  for (const layer of [0, 1]) outputs.set(`left.${layer}`, task.outputs.get(`memory.${layer}`)!);
  return { ...task, outputs };
}

describe("XLNet", () => {
  it("has the published numbers of parameters", () => {
    const counts = Object.values(xlnetSizes).map(({ config: sizes }) =>
      countParameters(xlnetForPretraining(sizes)),
    );
    const { parameters } = referenceJson("xlnet/sizes.json") as { parameters: Record<string, number> };
    expect(counts).toEqual(Object.values(parameters));
    expect(Object.values(xlnetSizes).map(({ parameters: stated }) => stated)).toEqual(counts);
  });

  it("keeps its configuration through Hugging Face's", () => {
    const large = xlnetSizes["xlnet-large-cased"].config;
    expect(xlnetTable.read(xlnetTable.write(large))).toEqual(large);
    expect(xlnetTable.read(xlnetTable.write(config))).toEqual(config);
    const bothWays = { ...large, bidirectionalData: true };
    expect(xlnetTable.read(xlnetTable.write(bothWays))).toEqual(bothWays);
    expect(() => xlnetTable.read({ model_type: "xlnet", bi_data: "yes" })).toThrow("bi_data");
    expect(() => xlnetTable.read({ model_type: "xlnet", n_head: 7 })).toThrow("7 heads");
  });

  it("reads a text in two halves with memory as its second half at once, where no one looks ahead", async () => {
    const model = new Xlnet(
      xlnetConfig({ vocabSize: 53, hiddenSize: 16, numLayers: 3, numHeads: 2, dropout: 0 }),
    );
    using weights = Weights.initialize(runtime, model, 3);
    for (const tensor of Object.values(weights.tensors))
      tensor.write(tensor.view().map((value) => value * 10) as Float32Array);
    const ids = input("ids", "int32", [1, 12]);
    const [mask12, mask6] = [12, 6].map((length) => input(`mask${length}`, "bool", [1, length, length]));
    const whole = model.contentStates({ inputIds: ids, attentionMask: mask12 }).hidden;
    const first = model.contentStates({ inputIds: ids.slice(1, 0, 6), attentionMask: mask6 });
    const second = model.contentStates({
      inputIds: ids.slice(1, 6, 12),
      attentionMask: mask6,
      memory: first.memory,
    });
    const forgotten = model.contentStates({ inputIds: ids.slice(1, 6, 12), attentionMask: mask6 });
    using program = await compile(runtime, {
      whole: whole.slice(1, 6, 12),
      second: second.hidden,
      forgotten: forgotten.hidden,
    });
    const triangle = (length: number) =>
      runtime.createTensor(
        "bool",
        [1, length, length],
        Uint8Array.from({ length: length ** 2 }, (_, index) =>
          Number(index % length <= Math.floor(index / length)),
        ),
      );
    const results = await program.run({
      ...weights.tensors,
      ids: runtime.createTensor(
        "int32",
        [1, 12],
        Int32Array.from({ length: 12 }, (_, index) => 3 + index),
      ),
      mask12: triangle(12),
      mask6: triangle(6),
    });
    const read = async (name: string) => (await results[name]!.read()) as Float32Array;
    expect(relativeError(await read("second"), await read("whole"))).toBeLessThan(1e-5);
    expect(relativeError(await read("forgotten"), await read("whole"))).toBeGreaterThan(1e-2);
  });
});
