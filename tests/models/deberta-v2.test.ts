import { describe, expect, it } from "vitest";
import { crossEntropy, mul, sum } from "../../src/graph/index.js";
import {
  DebertaV3Pretraining,
  debertaV2Config,
  debertaV2ForMaskedLm,
  debertaV2Sizes,
  debertaV2Table,
  debertaV3,
  logBucket,
} from "../../src/models/index.js";
import { countParameters } from "../../src/nn/index.js";
import { binaryLosses, discriminatorWeight } from "../../src/objectives/index.js";
import { encoderInputs, expectAgreement, recorded, referenceJson } from "./encoders.js";

const second = debertaV2Table.read(referenceJson("deberta-v2/config.json"));
const third = debertaV2Table.read(referenceJson("deberta-v3/config.json"));

describe("DeBERTa of the second version agrees with transformers: own projections, convolution, segments, absolute positions", () => {
  it.each([
    ["maskedLm", debertaV2ForMaskedLm(second), {}],
    ["maskedLm", debertaV2ForMaskedLm(second), { symbolic: true, fused: false }],
    ["sequence", debertaV3.heads.classify.create(second, 3), {}],
  ] as const)("in %s (%#)", async (task, model, how) => {
    await expectAgreement(
      await recorded(`deberta-v2/${task}.safetensors`),
      model,
      (given) => {
        const logits = model.forward(encoderInputs(given));
        return { logits, loss: crossEntropy(logits, given["labels"]!) };
      },
      { ...how, realOnly: true },
    );
  });
});

describe("DeBERTa of the third version agrees with transformers", () => {
  it("in multiple choice", async () => {
    const model = debertaV3.heads.choice.create(third, 2);
    await expectAgreement(await recorded("deberta-v3/choice.safetensors"), model, (given) => {
      const logits = model.forward(encoderInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    });
  });

  it.each([{}, { symbolic: true }])(
    "in replaced-token detection: no gradient of the discriminator reaches the generator's embeddings (%o)",
    async (how) => {
      const model = new DebertaV3Pretraining(third, { numLayers: 2 });
      await expectAgreement(
        await recorded("deberta-v3/pretraining.safetensors"),
        model,
        (given) => {
          const { generator, replaced } = model.forward(encoderInputs(given));
          const real = given["attention_mask"]!.cast("float32");
          const found = mul(binaryLosses(replaced, given["replaced_labels"]!.cast("float32")), real);
          const detection = sum(found).div(sum(real)).mul(discriminatorWeight);
          return { generator, replaced, loss: crossEntropy(generator, given["labels"]!).add(detection) };
        },
        { ...how, realOnly: true },
      );
    },
  );
});

describe("DeBERTa of the second and third version", () => {
  it("puts distances into the reference's buckets", () => {
    const { buckets } = referenceJson("deberta-v2/buckets.json") as { buckets: Record<string, number[]> };
    for (const [name, wanted] of Object.entries(buckets)) {
      const [size, limit] = name.split("/").map(Number) as [number, number];
      expect(wanted.map((_, index) => logBucket(index - 511, size, limit))).toEqual(wanted);
    }
  });

  it("has the published numbers of parameters: 900M and 1.5B; 22M, 44M, 86M and 304M beside the embeddings", () => {
    const names = Object.keys(debertaV2Sizes) as (keyof typeof debertaV2Sizes)[];
    const counts = names.map((name) => countParameters(debertaV2ForMaskedLm(debertaV2Sizes[name].config)));
    const { parameters } = referenceJson("deberta-v2/sizes.json") as { parameters: Record<string, number> };
    expect(counts).toEqual(names.map((name) => parameters[name]));
    const beside = names.slice(2).map((name, index) => {
      const { vocabSize, hiddenSize } = debertaV2Sizes[name].config;
      return Math.round((counts[index + 2]! - vocabSize * hiddenSize) / 1e6);
    });
    expect(beside).toEqual([22, 44, 86, 304]);
  });

  it("keeps its configuration through Hugging Face's", () => {
    for (const { config } of Object.values(debertaV2Sizes))
      expect(debertaV2Table.read(debertaV2Table.write(config))).toEqual(config);
    expect(() => debertaV2Config({ hiddenSize: 8, numLayers: 1, numHeads: 2, convolutionSize: 2 })).toThrow(
      "has no middle",
    );
  });
});
