import { describe, expect, it } from "vitest";
import { crossEntropy } from "../../src/graph/index.js";
import {
  DebertaPretraining,
  deberta,
  debertaForMaskedLm,
  debertaSizes,
  debertaTable,
} from "../../src/models/index.js";
import { countParameters } from "../../src/nn/index.js";
import { encoderInputs, expectAgreement, recorded, referenceJson } from "./encoders.js";

const config = debertaTable.read(referenceJson("deberta/config.json"));

describe("DeBERTa agrees with Hugging Face transformers on random weights, rows longer than its distances", () => {
  it.each([
    ["maskedLm", debertaForMaskedLm(config), {}],
    ["maskedLm", debertaForMaskedLm(config), { symbolic: true, fused: false }],
    ["sequence", deberta.heads.classify.create(config, 3), {}],
    // The enhanced mask decoder, which transformers leaves out, around its layers.
    ["pretraining", new DebertaPretraining(config), {}],
    ["pretraining", new DebertaPretraining(config), { symbolic: true }],
  ] as const)("in %s (%#)", async (task, model, how) => {
    await expectAgreement(
      await recorded(`deberta/${task}.safetensors`),
      model,
      (given) => {
        const logits = model.forward(encoderInputs(given));
        return { logits, loss: crossEntropy(logits, given["labels"]!) };
      },
      { ...how, realOnly: true },
    );
  });
});

describe("DeBERTa", () => {
  it("has the published numbers of parameters: 140M, 400M and 750M", () => {
    const counts = Object.values(debertaSizes).map(({ config: sizes }) =>
      countParameters(debertaForMaskedLm(sizes)),
    );
    const { parameters } = referenceJson("deberta/sizes.json") as { parameters: Record<string, number> };
    expect(counts).toEqual(Object.values(parameters));
    expect(Object.values(debertaSizes).map(({ parameters: stated }) => stated)).toEqual(counts);
    [140e6, 400e6, 750e6].forEach((published, index) =>
      expect(Math.abs(counts[index]! / published - 1)).toBeLessThan(0.02),
    );
  });

  it("keeps its configuration through Hugging Face's, position terms as a list or as one text", () => {
    const large = debertaSizes["deberta-large"].config;
    const json = debertaTable.write(large);
    expect(debertaTable.read(json)).toEqual(large);
    expect(debertaTable.read({ ...json, pos_att_type: "c2p|p2c" })).toEqual(large);
    expect(debertaTable.read({ ...json, relative_attention: false }).positionTerms).toEqual([]);
    expect(() => debertaTable.read({ ...json, pos_att_type: "p2p" })).toThrow("pos_att_type");
  });
});
