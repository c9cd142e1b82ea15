import { describe, expect, it } from "vitest";
import { crossEntropy } from "../../src/graph/index.js";
import {
  albert,
  albertConfig,
  albertForPretraining,
  albertSizes,
  albertTable,
} from "../../src/models/index.js";
import { countParameters } from "../../src/nn/index.js";
import { encoderInputs, expectAgreement, recorded, referenceJson } from "./encoders.js";

const config = albertTable.read(referenceJson("albert/config.json"));

describe("ALBERT agrees with Hugging Face transformers on random weights: five layers of two groups of two", () => {
  it.each([{}, { symbolic: true, fused: false }])("in pretraining (%o)", async (how) => {
    const model = albertForPretraining(config);
    await expectAgreement(
      await recorded("albert/pretraining.safetensors"),
      model,
      (given) => {
        const { maskedLm, sentenceOrder } = model.forward(encoderInputs(given));
        const loss = crossEntropy(maskedLm, given["labels"]!).add(
          crossEntropy(sentenceOrder, given["sentence_order_label"]!),
        );
        return { prediction_logits: maskedLm, sop_logits: sentenceOrder, loss };
      },
      how,
    );
  });

  it.each([
    ["token", albert.heads.tag.create(config, 3)],
    ["choice", albert.heads.choice.create(config, 2)],
  ] as const)("in %s", async (task, model) => {
    await expectAgreement(await recorded(`albert/${task}.safetensors`), model, (given) => {
      const logits = model.forward(encoderInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    });
  });
});

describe("ALBERT", () => {
  it("has the published numbers of parameters: 12M, 18M, 60M and 235M", () => {
    const counts = Object.values(albertSizes).map(({ config: sizes }) =>
      countParameters(albertForPretraining(sizes)),
    );
    const { parameters } = referenceJson("albert/sizes.json") as { parameters: Record<string, number> };
    expect(counts).toEqual(Object.values(parameters));
    expect(Object.values(albertSizes).map(({ parameters: stated }) => stated)).toEqual(counts);
    const published = [12e6, 18e6, 60e6, 235e6];
    counts.forEach((count, index) => expect(Math.abs(count / published[index]! - 1)).toBeLessThan(0.06));
  });

  it("keeps its configuration through Hugging Face's", () => {
    const large = albertSizes["albert-xxlarge-v2"].config;
    expect(albertTable.read(albertTable.write(large))).toEqual(large);
    expect(() => albertConfig({ hiddenSize: 8, numLayers: 2, numHeads: 2, numGroups: 3 })).toThrow(
      "3 groups",
    );
  });
});
