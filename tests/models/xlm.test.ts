import { describe, expect, it } from "vitest";
import { type Tensor, crossEntropy } from "../../src/graph/index.js";
import { xlm, xlmForMaskedLm, xlmSizes, xlmTable } from "../../src/models/index.js";
import { countParameters } from "../../src/nn/index.js";
import { encoderInputs, expectAgreement, recorded, referenceJson, spanLoss } from "./encoders.js";

const config = xlmTable.read(referenceJson("xlm/config.json"));
const xlmInputs = (given: Record<string, Tensor>) => ({
  ...encoderInputs(given),
  positionIds: given["position_ids"],
  languageIds: given["langs"],
});

describe("XLM agrees with Hugging Face transformers on random weights", () => {
  it.each([
    { fused: true, symbolic: false },
    { fused: false, symbolic: false },
    { fused: true, symbolic: true },
  ])("in translation language modelling, with languages and reset positions (%o)", async (how) => {
    const model = xlmForMaskedLm(config);
    const build = (given: Record<string, Tensor>) => {
      const logits = model.forward(xlmInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    };
    await expectAgreement(await recorded("xlm/translation.safetensors"), model, build, how);
  });

  it("in causal language modelling", async () => {
    const model = xlmForMaskedLm({ ...config, causal: true });
    await expectAgreement(await recorded("xlm/causal.safetensors"), model, (given) => {
      const logits = model.forward(xlmInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    });
  });

  it("in classes of sequences", async () => {
    const model = xlm.heads.classify.create(config, 3);
    await expectAgreement(await recorded("xlm/sequence.safetensors"), model, (given) => {
      const logits = model.forward(xlmInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    });
  });

  it("in classes of tokens", async () => {
    const model = xlm.heads.tag.create(config, 3);
    await expectAgreement(await recorded("xlm/token.safetensors"), model, (given) => {
      const logits = model.forward(xlmInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    });
  });

  it("in spans", async () => {
    const model = xlm.heads.span.create(config, 2);
    await expectAgreement(await recorded("xlm/span.safetensors"), model, (given) => {
      const logits = model.forward(encoderInputs(given));
      return { loss: spanLoss(logits, given["start_positions"]!, given["end_positions"]!) };
    });
  });

  it("in multiple choice", async () => {
    const model = xlm.heads.choice.create(config, 2);
    await expectAgreement(await recorded("xlm/choice.safetensors"), model, (given) => {
      const logits = model.forward(encoderInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    });
  });
});

describe("XLM", () => {
  it("has the published numbers of parameters", () => {
    const counts = Object.values(xlmSizes).map(({ config: sizes }) => countParameters(xlmForMaskedLm(sizes)));
    const { parameters } = referenceJson("xlm/sizes.json") as { parameters: Record<string, number> };
    expect(counts).toEqual(Object.values(parameters));
    expect(Object.values(xlmSizes).map(({ parameters: stated }) => stated)).toEqual(counts);
    // Conneau et al. 2020, table 1: 250M for fifteen languages, 570M for a hundred.
    expect(Math.abs(counts[2]! / 250e6 - 1)).toBeLessThan(0.01);
    expect(Math.abs(counts[3]! / 570e6 - 1)).toBeLessThan(0.01);
  });

  it("keeps its configuration through Hugging Face's", () => {
    for (const { config: sizes } of Object.values(xlmSizes))
      expect(xlmTable.read(xlmTable.write(sizes))).toEqual(sizes);
    expect(() => xlmTable.read({ model_type: "xlm", asm: true })).toThrow("asm");
    expect(() => xlmTable.read({ model_type: "xlm", n_heads: 7 })).toThrow("7 heads");
  });
});
