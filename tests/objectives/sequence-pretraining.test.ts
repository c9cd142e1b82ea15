import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { loadModel, savePretrained } from "../../src/checkpoints/index.js";
import { type Batch, documentsOf, splitDocuments, stories } from "../../src/data/index.js";
import { bart, mass, mt5, t5 } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { type PretrainingOptions, sequenceToSequenceObjective } from "../../src/objectives/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { sentinelsOf, trainTokenizer, trainUnigram } from "../../src/tokenizers/index.js";
import { Trainer, evaluate, schedule } from "../../src/training/index.js";

const runtime = createRuntime();
const root = await mkdtemp(path.join(os.tmpdir(), "sequence-pretraining-"));
afterAll(() => rm(root, { recursive: true, force: true }));

const documents = [...stories({ seed: 1, count: 60 })].flatMap((story) => documentsOf(story));
const { training, heldOut } = splitDocuments(documents, 0.1, "the stories");
const systems = { t5, mt5, mass, bart };
type Name = keyof typeof systems;
const tokenizers = {
  t5: trainTokenizer(t5.tokenizer, training.flat(), 500),
  mass: trainTokenizer(mass.tokenizer, training.flat(), 420),
  bart: trainTokenizer(bart.tokenizer, training.flat(), 420),
};
const tokenizerOf = (name: Name) => tokenizers[name === "mt5" ? "t5" : name];

const optionsFor = (name: Name, more: Partial<PretrainingOptions> = {}): PretrainingOptions => ({
  tokenizer: tokenizerOf(name),
  training: { languages: [{ name: "", documents: training }] },
  heldOut: { languages: [{ name: "", documents: heldOut }] },
  hiddenSize: 32,
  numLayers: 1,
  numHeads: 4,
  contextLength: 40,
  dropout: 0,
  batchSize: 8,
  seed: 3,
  ...more,
});
const prepare = (name: Name, more: Partial<PretrainingOptions> = {}) =>
  systems[name].pretraining!.prepare(optionsFor(name, more));

/** Rows of a batch without their padding: what the encoder reads, what the decoder reads, and what it has to write. */
function rowsOf({ tensors }: Batch) {
  const { inputIds, attentionMask, decoderInputIds, labels, decoderPositionIds } = tensors;
  const cut = ({ data, shape }: NonNullable<typeof inputIds>, row: number, length: number) =>
    Array.from(data.subarray(row * shape[1]!, row * shape[1]! + length), Number);
  return Array.from({ length: inputIds!.shape[0]! }, (_, row) => {
    const source = cut(attentionMask!, row, inputIds!.shape[1]!).filter((seen) => seen === 1).length;
    const target = cut(labels!, row, labels!.shape[1]!).filter((label) => label !== -100).length;
    return {
      source: cut(inputIds!, row, source),
      decoder: cut(decoderInputIds!, row, target),
      labels: cut(labels!, row, target),
      positions: decoderPositionIds && cut(decoderPositionIds, row, target),
    };
  });
}

describe.each(["t5", "mt5", "mass", "bart"] as const)("pretraining %s", (name) => {
  it("learns, and leaves a folder whose model has the held-out loss that was measured", async () => {
    const { model, objective, source, heldOut: batches, networks } = prepare(name);
    using weights = Weights.initialize(runtime, model, 3);
    const before = await evaluate(objective, weights, batches());
    {
      using trainer = await Trainer.create({
        objective,
        weights,
        source,
        seed: 3,
        schedule: schedule("constant", { learningRate: 5e-3, warmupSteps: 5 }),
      });
      for (let step = 0; step < 60; step++) await trainer.step();
    }
    const after = await evaluate(objective, weights, batches());
    expect(after.loss).toBeLessThan(before.loss - 0.3);
    const folder = path.join(root, name);
    await savePretrained(folder, networks, tokenizerOf(name), weights);
    const loaded = await loadModel(runtime, folder, { kind: "encoder-decoder" });
    using again = loaded.weights;
    expect(loaded.system.name).toBe(name);
    const objectiveAgain = sequenceToSequenceObjective(loaded.model, { positions: name === "mass" });
    const found = await evaluate(objectiveAgain, again, batches());
    expect(found.loss).toBeCloseTo(after.loss, 5);
  });

  it("stays within the context, and ends what is read and written", () => {
    const { source } = prepare(name);
    const { eosId } = tokenizerOf(name);
    for (let batch = 0; batch < 20; batch++)
      for (const { source: ids, labels } of rowsOf(source.next() as Batch)) {
        expect(ids.length).toBeLessThanOrEqual(40);
        expect(ids.at(-1)).toBe(eosId);
        // MASS writes a part of a sentence, which ends nothing.
        if (name !== "mass") expect(labels.at(-1)).toBe(eosId);
      }
  });
});

describe("span corruption", () => {
  it("gives a text whose hidden spans, put in the places of their sentinels, are the text of the corpus", () => {
    const { source } = prepare("t5");
    const tokenizer = tokenizers.t5;
    const sentinels = sentinelsOf(tokenizer);
    expect(sentinels.length).toBe(100);
    const corpus = training.flatMap((document) =>
      document.flatMap((sentence, index) => tokenizer.encode(index === 0 ? sentence : ` ${sentence}`)),
    );
    const whole = corpus.join(" ");
    for (const { source: ids, labels, decoder } of rowsOf(source.next() as Batch)) {
      expect(decoder).toEqual([tokenizer.padId, ...labels.slice(0, -1)]);
      const restored = ids.slice(0, -1).flatMap((id) => {
        const place = sentinels.indexOf(id);
        if (place < 0) return [id];
        const start = labels.indexOf(id) + 1;
        const next = labels.indexOf(sentinels[place + 1]!);
        return labels.slice(start, next < 0 ? -1 : next);
      });
      expect(` ${whole} `).toContain(` ${restored.join(" ")} `);
      expect(ids.length === 40 || restored.join(" ").length > 0).toBe(true);
    }
  });

  it("asks for a tokenizer with sentinels, and enough of them", () => {
    const without = trainUnigram(training.flat(), { vocabSize: 300, style: "t5" });
    expect(() => prepare("t5", { tokenizer: without })).toThrow("has no sentinels");
    const few = trainUnigram(training.flat(), { vocabSize: 300, style: "t5", sentinels: 1 });
    expect(() => prepare("t5", { tokenizer: few })).toThrow("but the tokenizer has 1 sentinels");
    expect(() => prepare("bart", { tokenizer: tokenizers.t5 })).toThrow("has no mask");
  });
});

describe("MASS", () => {
  it("lets the decoder write, at its places, what the encoder does not see", () => {
    const { source } = prepare("mass");
    for (const { source: ids, decoder, labels, positions } of rowsOf(source.next() as Batch)) {
      const text = [...ids.slice(0, -1)];
      labels.forEach((label, index) => (text[positions![index]!] = label));
      expect(labels.length).toBe(Math.max(1, Math.round(text.length / 2)));
      expect(decoder.slice(1)).toEqual(labels.slice(0, -1));
      expect(decoder[0]).toBe(positions![0] === 0 ? 1 : text[positions![0]! - 1]);
    }
  });
});

describe("several languages", () => {
  it("are sampled by their share of the text to the power of the exponent", () => {
    const small = training.slice(0, 6);
    const marked = small.map((document) => document.map((text) => text.replace(/\p{L}+/gu, "zzz")));
    const tokenizer = trainTokenizer(bart.tokenizer, [...training.flat(), ...marked.flat()], 420);
    const zzz = tokenizer.encode(" zzz")[0]!;
    const share = (exponent?: number) => {
      const { source } = prepare("bart", {
        tokenizer,
        training: {
          languages: [
            { name: "en", documents: training },
            { name: "zz", documents: marked },
          ],
        },
        exponent,
      });
      let [of, all] = [0, 0];
      for (let batch = 0; batch < 400; batch++)
        for (const { labels } of rowsOf(source.next() as Batch)) {
          all++;
          if (labels.filter((label) => label === zzz).length > 3) of++;
        }
      return of / all;
    };
    expect(share(0)).toBeGreaterThan(0.45);
    expect(share(0)).toBeLessThan(0.55);
    const kept = share(1);
    expect(kept).toBeLessThan(0.15);
  });
});
