import { describe, expect, it } from "vitest";
import { crossEntropy } from "../../src/graph/index.js";
import { roberta, robertaForMaskedLm, robertaSizes, robertaTable } from "../../src/models/index.js";
import { countParameters } from "../../src/nn/index.js";
import { encoderInputs, expectAgreement, recorded, referenceJson } from "./encoders.js";

const config = robertaTable.read(referenceJson("roberta/config.json"));

describe("RoBERTa agrees with Hugging Face transformers on random weights, with padding", () => {
  it.each([
    ["maskedLm", robertaForMaskedLm(config), {}],
    ["maskedLm", robertaForMaskedLm(config), { symbolic: true, fused: false }],
    ["sequence", roberta.heads.classify.create(config, 3), {}],
    ["choice", roberta.heads.choice.create(config, 2), {}],
  ] as const)("in %s", async (task, model, how) => {
    await expectAgreement(
      await recorded(`roberta/${task}.safetensors`),
      model,
      (given) => {
        const logits = model.forward(encoderInputs(given));
        return { logits, loss: crossEntropy(logits, given["labels"]!) };
      },
      how,
    );
  });
});

describe("RoBERTa", () => {
  it("has the published numbers of parameters: 125M and 355M", () => {
    const counts = Object.values(robertaSizes).map(({ config: sizes }) =>
      countParameters(robertaForMaskedLm(sizes)),
    );
    const { parameters } = referenceJson("roberta/sizes.json") as { parameters: Record<string, number> };
    expect(counts).toEqual(Object.values(parameters));
    expect(Object.values(robertaSizes).map(({ parameters: stated }) => stated)).toEqual(counts);
    expect(counts.map((count) => Math.round(count / 1e6))).toEqual([125, 355]);
  });

  it("keeps its configuration through Hugging Face's, whose positions begin behind the padding's", () => {
    const large = robertaSizes["roberta-large"].config;
    expect(robertaTable.write(large)["max_position_embeddings"]).toBe(514);
    expect(robertaTable.read(robertaTable.write(large))).toEqual(large);
    expect(() => robertaTable.read({ model_type: "roberta", max_position_embeddings: 2 })).toThrow(
      "pad_token_id + 1",
    );
  });
});
