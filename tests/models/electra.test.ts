import { describe, expect, it } from "vitest";
import { crossEntropy, mul, sum } from "../../src/graph/index.js";
import {
  ElectraPretraining,
  electra,
  electraForMaskedLm,
  electraForPretraining,
  electraGeneratorSizes,
  electraSizes,
  electraTable,
} from "../../src/models/index.js";
import { countParameters, namedParameters } from "../../src/nn/index.js";
import { binaryLosses } from "../../src/objectives/index.js";
import { encoderInputs, expectAgreement, recorded, referenceJson } from "./encoders.js";

const config = electraTable.read(referenceJson("electra/config.json"));

describe("ELECTRA agrees with Hugging Face transformers on random weights, embeddings narrower than layers", () => {
  it.each([{}, { symbolic: true, fused: false }])("in the discriminator (%o)", async (how) => {
    const model = electraForPretraining(config);
    await expectAgreement(
      await recorded("electra/discriminator.safetensors"),
      model,
      (given) => {
        const logits = model.forward(encoderInputs(given));
        const real = given["attention_mask"]!.cast("float32");
        const losses = binaryLosses(logits, given["labels"]!.cast("float32"));
        return { logits, loss: sum(mul(losses, real)).div(sum(real)) };
      },
      how,
    );
  });

  it.each([
    ["generator", electraForMaskedLm(config)],
    ["sequence", electra.heads.classify.create(config, 3)],
    ["choice", electra.heads.choice.create(config, 2)],
  ] as const)("in the %s", async (task, model) => {
    await expectAgreement(await recorded(`electra/${task}.safetensors`), model, (given) => {
      const logits = model.forward(encoderInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    });
  });
});

describe("ELECTRA", () => {
  it("has the published numbers of parameters: 14M, 110M and 335M", () => {
    const { parameters } = referenceJson("electra/sizes.json") as { parameters: Record<string, number> };
    const counts = (["small", "base", "large"] as const).flatMap((name) => [
      countParameters(electraForPretraining(electraSizes[`electra-${name}`].config)),
      countParameters(electraForMaskedLm(electraGeneratorSizes[`electra-${name}`].config)),
    ]);
    expect(counts).toEqual(Object.values(parameters));
    expect([counts[0]!, counts[2]!, counts[4]!].map((count) => Math.round(count / 1e6))).toEqual([
      14, 109, 335,
    ]);
  });

  it("trains two networks on one set of embeddings", () => {
    const both = new ElectraPretraining(
      electraSizes["electra-small"].config,
      electraGeneratorSizes["electra-small"].config,
    );
    const shared = countParameters(both.discriminator.encoder.embeddings);
    const apart =
      countParameters(electraForPretraining(electraSizes["electra-small"].config)) +
      countParameters(electraForMaskedLm(electraGeneratorSizes["electra-small"].config));
    expect(shared).toBe((30_522 + 512 + 2 + 2) * 128);
    expect(countParameters(both)).toBe(apart - shared);
    expect([...namedParameters(both).keys()].filter((name) => name.includes("word_embeddings"))).toEqual([
      "discriminator.electra.embeddings.word_embeddings.weight",
    ]);
  });

  it("keeps its configuration through Hugging Face's", () => {
    const large = electraSizes["electra-large"].config;
    expect(electraTable.read(electraTable.write(large))).toEqual(large);
    expect(() => electraTable.read({ model_type: "electra", hidden_size: 0 })).toThrow("hidden_size");
  });
});
