import { mkdtemp, readFile, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { stories, documentsOf, splitDocuments } from "../../src/data/index.js";
import { trainTokenizer, trainWordPiece } from "../../src/tokenizers/index.js";
import { loadModel, loadForTask, savePretrained } from "../../src/checkpoints/index.js";
import { Weights } from "../../src/nn/index.js";
import {
  type Pretraining,
  type PretrainingCorpus,
  type PretrainingOptions,
  encodeDocuments,
} from "../../src/objectives/index.js";
import { type SystemName, systems, systemsOfKind } from "../../src/models/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { RunFolder, evaluate, runTraining, schedule } from "../../src/training/index.js";

const runtime = createRuntime();
const pretrainingModels = systemsOfKind("encoder").map(({ name }) => name as SystemName<"encoder">);
const root = await mkdtemp(path.join(os.tmpdir(), "pretraining-"));
afterAll(() => rm(root, { recursive: true, force: true }));

const documents = [...stories({ seed: 1, count: 60 })].flatMap((story) => documentsOf(story));
const { training, heldOut } = splitDocuments(documents, 0.1, "the stories");
/** The second language is the first one backwards: every word has its translation. */
const backwards = (texts: readonly (readonly string[])[]) =>
  texts.map((document) => document.map((sentence) => [...sentence].reverse().join("")));
function corpus(model: SystemName<"encoder">, texts: readonly (readonly string[])[]): PretrainingCorpus {
  if (model !== "xlm") return { languages: [{ name: "en", documents: texts }] };
  const pairs = texts.flat().map((text) => [text, [...text].reverse().join("")] as const);
  return {
    languages: [
      { name: "en", documents: texts },
      { name: "ne", documents: backwards(texts) },
    ],
    parallel: [{ languages: [0, 1], pairs }],
  };
}

const tokenizers = new Map(
  pretrainingModels.map((model) => [
    model,
    trainTokenizer(
      systems[model].tokenizer,
      [...training.flat(), ...(model === "xlm" ? backwards(training).flat() : [])],
      420,
    ),
  ]),
);

function prepare(model: SystemName<"encoder">, { steps }: { steps: number }) {
  const system = systems[model].pretraining.prepare({
    tokenizer: tokenizers.get(model)!,
    training: corpus(model, training),
    heldOut: corpus(model, heldOut),
    hiddenSize: 32,
    numLayers: 2,
    numHeads: 4,
    contextLength: 48,
    dropout: 0.1,
    batchSize: 8,
    seed: 3,
  });
  const weights = Weights.initialize(runtime, system.model, 3);
  const run = async (folder: string, { resume = false, stopAt = Infinity } = {}) => {
    const controller = new AbortController();
    const opened = await RunFolder.open(folder, z.object({}), { resume, given: {} });
    const losses: number[] = [];
    try {
      await runTraining({
        folder: opened,
        objective: system.objective,
        weights,
        source: system.source,
        seed: 3,
        schedule: schedule("constant", { learningRate: 5e-3, warmupSteps: 5, totalSteps: steps }),
        steps,
        evalEvery: steps,
        evaluate: async (kept) => ({
          loss: (await evaluate(system.objective, kept, system.heldOut())).loss,
        }),
        save: (kept) => savePretrained(folder, system.networks, tokenizers.get(model)!, kept),
        signal: controller.signal,
        observer: {
          stepped: ({ step, loss }) => {
            losses.push(loss);
            if (step === stopAt) controller.abort();
          },
        },
      });
    } finally {
      await opened.close();
    }
    return losses;
  };
  return { ...system, weights, run };
}

describe("documentsOf", () => {
  it("keeps every word in order, and ends documents at blank lines once there is enough", () => {
    const long = Array.from({ length: 60 }, (_, index) => `Sentence number ${index} is here.`).join(" ");
    const made = documentsOf(`One line\nand the next. A second sentence!\n\nShort.\n\n${long}\n\nThe end.`);
    expect(made.flat().join(" ")).toBe(`One line and the next. A second sentence! Short. ${long} The end.`);
    expect(made.map((document) => document.at(-1))).toEqual(["Sentence number 59 is here.", "The end."]);
    expect(made[0]!.slice(0, 3)).toEqual(["One line and the next.", "A second sentence!", "Short."]);
    expect(documentsOf("  \n\n ")).toEqual([]);
  });

  it("splits off what is held out, and says when there is too little", () => {
    expect(splitDocuments([1, 2, 3, 4], 0.25, "x")).toEqual({ training: [1, 2, 3], heldOut: [4] });
    expect(splitDocuments([1, 2], 0.01, "x")).toEqual({ training: [1], heldOut: [2] });
    expect(() => splitDocuments([1], 0.5, "my.txt")).toThrow("my.txt makes one document");
  });
});

describe.each(pretrainingModels)("pretraining %s", (model) => {
  it("learns, and leaves a folder that loads for filling masks and for fine-tuning", async () => {
    const folder = path.join(root, `${model}-learns`);
    const steps = 30;
    const system = prepare(model, { steps });
    const before = (await evaluate(system.objective, system.weights, system.heldOut())).parts;
    await system.run(folder);
    const after = (await evaluate(system.objective, system.weights, system.heldOut())).parts;
    // Words: from nothing known, log 420 = 6.04, to what their frequencies and neighbours say.
    const words = model === "xlnet" ? "permutationLm" : "maskedLm";
    expect(before[words]!).toBeGreaterThan(5.8);
    expect(after[words]!).toBeLessThan(before[words]! - 0.4);

    const encoder = await loadModel(runtime, folder, { kind: "encoder" });
    expect(encoder.tokenizer.encode("The cat sat.")).toEqual(tokenizers.get(model)!.encode("The cat sat."));
    const classifier = await loadForTask(runtime, folder, "classify");
    const isEncoder = (name: string) => /embed|layer|attention|ffn|encoder/.test(name);
    expect(classifier.fresh.filter(isEncoder)).toEqual([]);
    expect(classifier.fresh.length).toBeGreaterThan(0);
    if (!model.startsWith("deberta") && model !== "electra")
      expect((await loadForTask(runtime, folder, "fill-mask")).fresh).toEqual([]);
    if (model === "electra") {
      const generator = await loadForTask(runtime, path.join(folder, "generator"), "fill-mask");
      expect(generator.fresh).toEqual([]);
      generator.weights.dispose();
    }
    for (const { weights } of [encoder, classifier, system]) weights.dispose();
  });

  it("goes on after an interruption to bit-equal losses", async () => {
    const steps = 6;
    const whole = prepare(model, { steps });
    const wanted = await whole.run(path.join(root, `${model}-whole`));
    const folder = path.join(root, `${model}-parts`);
    const first = prepare(model, { steps });
    const losses = await first.run(folder, { stopAt: 3 });
    const second = prepare(model, { steps });
    losses.push(...(await second.run(folder, { resume: true })));
    expect(losses).toEqual(wanted);
    expect(await readFile(path.join(folder, "model.safetensors"))).toEqual(
      await readFile(path.join(root, `${model}-whole`, "model.safetensors")),
    );
    for (const { weights } of [whole, first, second]) weights.dispose();
  });
});

const xlnetOf = (options: Partial<PretrainingOptions>): Pretraining =>
  systems.xlnet.pretraining.prepare({
    tokenizer: tokenizers.get("xlnet")!,
    training: corpus("xlnet", training),
    heldOut: corpus("xlnet", heldOut),
    hiddenSize: 32,
    numLayers: 1,
    numHeads: 2,
    contextLength: 48,
    dropout: 0,
    batchSize: 4,
    seed: 1,
    ...options,
  });

describe("pretraining XLNet", () => {
  it("reads half of each batch backwards, and saves a network that reads every row forwards", async () => {
    const system = prepare("xlnet", { steps: 1 });
    const tokens = (documents: readonly (readonly string[])[]) =>
      encodeDocuments(tokenizers.get("xlnet")!, documents).flat(2);
    for (const [batch, text] of [
      [system.source.next(), tokens(training)],
      [[...system.heldOut()][0]!, tokens(heldOut)],
    ] as const) {
      const { data, shape } = (await batch).tensors["inputIds"]!;
      const [rows, , length] = shape as [number, number, number];
      expect(rows).toBe(8);
      const readable = Array.from({ length: rows }, (_, row) => {
        const begin = row * 2 * length;
        const reused = [...(data as Int32Array).subarray(begin, begin + length / 2)];
        return [reused, [...reused].reverse()].map((ids) => `,${text.join()},`.includes(`,${ids.join()},`));
      });
      expect(readable).toEqual([
        ...Array<boolean[]>(rows / 2).fill([true, false]),
        ...Array<boolean[]>(rows / 2).fill([false, true]),
      ]);
    }
    expect(system.networks[0]!.config).toMatchObject({ architectures: ["XLNetLMHeadModel"], bi_data: false });
    system.weights.dispose();
  });

  it("evaluates on a held-out text shorter than a row, from its beginning again", () => {
    const tokenizer = tokenizers.get("xlnet")!;
    const short = [[heldOut[0]![0]!]];
    const text = encodeDocuments(tokenizer, short).flat(2);
    expect(text.length).toBeLessThan(48);
    const batches = [...xlnetOf({ heldOut: corpus("xlnet", short) }).heldOut()];
    expect(batches.map(({ counts }) => counts)).toEqual([{ permutationLm: 2 * 2 * 8 }]);
  });

  it("says that it needs an even number of rows", () => {
    expect(() => xlnetOf({ batchSize: 5 })).toThrow("an even number of rows, not 5");
  });
});

describe("pretraining systems", () => {
  it("say which token a tokenizer lacks", () => {
    const tokenizer = trainWordPiece(training.flat(), { vocabSize: 300 });
    expect(() => xlnetOf({ tokenizer })).toThrow("the tokenizer has no token <cls>");
  });
});
