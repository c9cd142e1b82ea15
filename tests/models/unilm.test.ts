import { describe, expect, it } from "vitest";
import { type Tensor, crossEntropy } from "../../src/graph/index.js";
import {
  bertForPretraining,
  bertTable,
  unilmConfig,
  unilmSizes,
  unilmTable,
} from "../../src/models/index.js";
import { Weights, countParameters } from "../../src/nn/index.js";
import { Random } from "../../src/base/random.js";
import {
  type SentenceVocabulary,
  maskRow,
  maskedBatch,
  maskedLmObjective,
  unilmMixture,
  unilmRow,
} from "../../src/objectives/index.js";
import { UnilmGenerator } from "../../src/tasks/index.js";
import { Trainer, schedule } from "../../src/training/index.js";
import { type Values, encoderInputs, expectAgreement, recorded, referenceJson, runtime } from "./encoders.js";

const config = unilmTable.read(referenceJson("unilm/config.json"));

describe("UniLM agrees with the equations of its paper on random weights", () => {
  it.each(Object.keys(unilmMixture))("under the %s mask", async (mode) => {
    const all = await recorded("unilm/modes.safetensors");
    const of = (values: ReadonlyMap<string, Values>) =>
      new Map(
        [...values].flatMap(([name, value]) =>
          name.startsWith(`${mode}/`) ? [[name.slice(mode.length + 1), value] as const] : [],
        ),
      );
    const task = {
      inputs: of(all.inputs),
      weights: all.weights,
      outputs: of(all.outputs),
      gradients: of(all.gradients),
    };
    const model = bertForPretraining(config);
    await expectAgreement(task, model, (given: Record<string, Tensor>) => {
      const hidden = model.encoder.encode(encoderInputs(given));
      const logits = model.head.predictions.forward(hidden);
      const words = crossEntropy(logits, given["labels"]!);
      const relation = model.head.sentenceLogits(hidden);
      const loss =
        mode === "bidirectional" ? words.add(crossEntropy(relation, given["next_sentence_label"]!)) : words;
      return { logits, loss };
    });
    // The reference's mask is the one that rows of this mode have.
    const row = unilmRow(
      mode as keyof typeof unilmMixture,
      { classId: 1, separatorId: 2 },
      [9, 9, 9],
      [9, 9, 9],
    );
    const mask = task.inputs.get("attention_mask")!.data;
    const wanted = Array.from({ length: 81 }, (_, index) =>
      Number(row.visible!(Math.floor(index / 9), index % 9)),
    );
    expect([...mask.subarray(0, 81)]).toEqual(wanted);
    expect([...task.inputs.get("token_type_ids")!.data.subarray(0, 9)]).toEqual(row.typeIds);
  });
});

describe("UniLM", () => {
  it("has the published numbers of parameters", () => {
    const counts = Object.values(unilmSizes).map(({ config: sizes }) =>
      countParameters(bertForPretraining(sizes)),
    );
    const { parameters } = referenceJson("unilm/sizes.json") as { parameters: Record<string, number> };
    expect(counts).toEqual(Object.values(parameters));
    expect(Object.values(unilmSizes).map(({ parameters: stated }) => stated)).toEqual(counts);
    // Section 2.3: about 340M.
    expect(Math.abs(counts[1]! / 340e6 - 1)).toBeLessThan(0.02);
  });

  it("keeps its configuration through that of a BERT", () => {
    const large = unilmSizes["unilm1-large-cased"].config;
    expect(unilmTable.read(unilmTable.write(large))).toEqual(large);
    expect(bertTable.read(unilmTable.write(large))).toEqual({ ...large });
    expect(() => unilmTable.read({ ...unilmTable.write(large), type_vocab_size: 2 })).toThrow(
      "type_vocab_size",
    );
  });

  it("learns to generate: the source reversed, with its end", { timeout: 240_000 }, async () => {
    const vocabulary: SentenceVocabulary = {
      size: 12,
      maskId: 3,
      classId: 1,
      separatorId: 2,
      paddingId: 0,
      specialIds: new Set([0, 1, 2, 3]),
    };
    const model = bertForPretraining(
      unilmConfig({
        vocabSize: 12,
        contextLength: 16,
        hiddenSize: 48,
        numLayers: 2,
        numHeads: 4,
        hiddenDropout: 0,
        attentionDropout: 0,
      }),
    );
    using weights = Weights.initialize(runtime, model, 5);
    let draws = 0;
    const example = (random: Random) =>
      Array.from({ length: 2 + random.integer(3) }, () => 4 + random.integer(8));
    const source = {
      state: null,
      restore: () => undefined,
      next: () => {
        const random = new Random(77).fork(draws++);
        const rows = Array.from({ length: 48 }, (_, index) => {
          const text = example(random.fork(index));
          const row = unilmRow("sequence-to-sequence", vocabulary, text, [...text].reverse());
          const target = text.length + 2;
          return maskRow(
            row,
            vocabulary,
            { rate: 0.7, maskable: (_, place) => place >= target },
            random.fork(`mask ${index}`),
          );
        });
        return maskedBatch(rows, 0);
      },
    };
    const objective = maskedLmObjective({
      model,
      encode: (inputs, context) => model.encoder.encode(inputs, context),
      maskedLosses: (hidden, labels) => model.head.predictions.losses(hidden, labels),
      extra: ["visible"],
    });
    using trainer = await Trainer.create({
      objective,
      weights,
      source,
      seed: 1,
      schedule: schedule("cosine", { learningRate: 3e-3, warmupSteps: 30, totalSteps: 500, minimum: 1e-4 }),
    });
    for (let step = 0; step < 500; step++) await trainer.step();
    using generator = await UnilmGenerator.create(
      { encoder: model.encoder, logits: (hidden) => model.head.predictions.forward(hidden) },
      weights,
      vocabulary,
    );
    const texts = Array.from({ length: 40 }, (_, index) => example(new Random(5).fork(index)));
    const written = await generator.generate(texts, { maxNewTokens: 8 });
    const right = texts.filter((text, index) => written[index]!.join() === [...text].reverse().join()).length;
    // The target that the source decides, length and all; by chance it would be right once in hundreds.
    expect(right).toBeGreaterThan(30);
    // A batch writes what a row writes alone.
    expect((await generator.generate([texts[3]!], { maxNewTokens: 8 }))[0]).toEqual(written[3]);
  });
});
