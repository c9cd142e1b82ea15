import { describe, expect, it } from "vitest";
import { type Tensor, compile, crossEntropy, input, sum } from "../../src/graph/index.js";
import {
  Bert,
  bert,
  bertForMaskedLm,
  bertForPretraining,
  bertSizes,
  bertTable,
} from "../../src/models/index.js";
import { Weights, countParameters, statesAt } from "../../src/nn/index.js";
import {
  encoderInputs,
  expectAgreement,
  recorded,
  referenceJson,
  relativeError,
  runtime,
  spanLoss,
  weightsOf,
} from "./encoders.js";

const config = bertTable.read(referenceJson("bert/config.json"));

describe("BERT agrees with Hugging Face transformers on random weights, with padding and segments", () => {
  it.each([
    { fused: true, symbolic: false },
    { fused: false, symbolic: false },
    { fused: true, symbolic: true },
  ])("in pretraining (%o)", async (how) => {
    const model = bertForPretraining(config);
    const build = (given: Record<string, Tensor>) => {
      const { maskedLm, nextSentence } = model.forward(encoderInputs(given));
      const loss = crossEntropy(maskedLm, given["labels"]!).add(
        crossEntropy(nextSentence, given["next_sentence_label"]!),
      );
      return { prediction_logits: maskedLm, seq_relationship_logits: nextSentence, loss };
    };
    await expectAgreement(await recorded("bert/pretraining.safetensors"), model, build, how);
  });

  it("in masked language modelling whose logits are computed at the masked positions alone", async () => {
    const task = await recorded("bert/maskedLm.safetensors");
    const labels = [...task.inputs.get("labels")!.data];
    const masked = labels.flatMap((label, index) => (label === -100 ? [] : [index]));
    // Two positions too many, as a batch of fixed shape has them: their label counts for nothing.
    const positions = Int32Array.of(...masked, 0, 0);
    const inputs = new Map(task.inputs);
    inputs.set("positions", { shape: [positions.length], data: positions });
    inputs.set("labels", {
      shape: [positions.length],
      data: Int32Array.of(...masked.map((index) => labels[index]!), -100, -100),
    });
    const model = bertForMaskedLm(config);
    await expectAgreement({ ...task, inputs }, model, (given) => {
      const hidden = model.encoder.encode(encoderInputs(given));
      const losses = model.head.losses(statesAt(hidden, given["positions"]!), given["labels"]!);
      return { logits: model.head.forward(hidden), loss: sum(losses).div(masked.length) };
    });
  });

  it("in classes of sequences", async () => {
    const model = bert.heads.classify.create(config, 3);
    await expectAgreement(await recorded("bert/sequence.safetensors"), model, (given) => {
      const logits = model.forward(encoderInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    });
  });

  it("in classes of tokens", async () => {
    const model = bert.heads.tag.create(config, 3);
    await expectAgreement(await recorded("bert/token.safetensors"), model, (given) => {
      const logits = model.forward(encoderInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    });
  });

  it("in spans", async () => {
    const model = bert.heads.span.create(config, 2);
    await expectAgreement(await recorded("bert/span.safetensors"), model, (given) => {
      const logits = model.forward(encoderInputs(given));
      return { loss: spanLoss(logits, given["start_positions"]!, given["end_positions"]!) };
    });
  });

  it("in multiple choice", async () => {
    const model = bert.heads.choice.create(config, 2);
    await expectAgreement(await recorded("bert/choice.safetensors"), model, (given) => {
      const logits = model.forward(encoderInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    });
  });
});

describe("BERT", () => {
  it("has the published numbers of parameters", () => {
    const counts = Object.values(bertSizes).map(({ config: sizes }) =>
      countParameters(bertForPretraining(sizes)),
    );
    const { parameters } = referenceJson("bert/sizes.json") as { parameters: Record<string, number> };
    expect(counts).toEqual(Object.values(parameters));
    expect(Object.values(bertSizes).map(({ parameters: stated }) => stated)).toEqual(counts);
    // Section 3: 110M and 340M.
    expect(counts[0]! / 110e6).toBeCloseTo(1, 2);
    expect(Math.abs(counts[1]! / 340e6 - 1)).toBeLessThan(0.02);
  });

  it("keeps its configuration through Hugging Face's", () => {
    const large = bertSizes["bert-large-uncased"].config;
    expect(bertTable.read(bertTable.write(large))).toEqual(large);
    expect(() => bertTable.read({ model_type: "bert", position_embedding_type: "relative_key" })).toThrow(
      "position_embedding_type",
    );
    expect(() => bertTable.read({ model_type: "bert", num_attention_heads: 7 })).toThrow("7 heads");
  });

  it("gives a padded row what it gives the row alone", async () => {
    const task = await recorded("bert/maskedLm.safetensors");
    using weights = weightsOf(bertForMaskedLm(config), task);
    const bert = new Bert(config, { pooler: false });
    using own = Weights.allocate(runtime, bert);
    for (const [name, tensor] of Object.entries(own.tensors))
      tensor.write(weights.get(`bert.${name}`).view());
    const shape = ["batch", "sequence"];
    const inputs = { inputIds: input("ids", "int32", shape), attentionMask: input("mask", "bool", shape) };
    using program = await compile(runtime, { hidden: bert.encode(inputs) });
    const run = async (ids: number[], mask: number[]) => {
      const { hidden } = await program.run({
        ...own.tensors,
        ids: runtime.createTensor("int32", [1, ids.length], Int32Array.from(ids)),
        mask: runtime.createTensor("bool", [1, ids.length], Uint8Array.from(mask)),
      });
      return (await hidden!.read()) as Float32Array;
    };
    const alone = await run([7, 8, 9], [1, 1, 1]);
    const padded = await run([7, 8, 9, 0, 0], [1, 1, 1, 0, 0]);
    expect(relativeError(padded.subarray(0, alone.length), alone)).toBeLessThan(1e-6);
    const unmasked = await run([7, 8, 9, 0, 0], [1, 1, 1, 1, 1]);
    expect(relativeError(unmasked.subarray(0, alone.length), alone)).toBeGreaterThan(1e-3);
  });
});
