import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import { loadModel } from "../../src/checkpoints/index.js";
import { Decoder, transform } from "../../src/generation/index.js";
import { bleu } from "../../src/metrics/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { type TrainTextRequest, finetuneText, resumeText, trainText } from "../../src/tasks/index.js";
import { encodePairs } from "../../src/tasks/text-data.js";
import { characterTokenizer } from "../../src/tokenizers/index.js";
import type { TrainingObserver } from "../../src/training/index.js";

const runtime = createRuntime();
const root = await mkdtemp(path.join(os.tmpdir(), "text-task-"));
afterAll(() => rm(root, { recursive: true, force: true }));

const words = { ein: "a", der: "the", hund: "dog", katze: "cat", rennt: "runs", schläft: "sleeps" };
const random = new Random(5);
const german = Object.keys(words);
const sentences = Array.from({ length: 120 }, () =>
  Array.from({ length: 2 + random.integer(4) }, () => german[random.integer(german.length)]!),
);
const translate = (sentence: readonly string[]) =>
  sentence.map((word) => words[word as keyof typeof words]).join(" ");
const table = path.join(root, "train.tsv");
await writeFile(
  table,
  `de\ten\n${sentences.map((sentence) => `${sentence.join(" ")}\t${translate(sentence)}\n`).join("")}`,
);

let count = 0;
const options = (more: Partial<TrainTextRequest> = {}) => ({
  out: path.join(root, `run-${count++}`),
  system: "transformer" as TrainTextRequest["system"],
  data: table,
  sizes: { hiddenSize: 32, numLayers: 1, numHeads: 4, contextLength: 32, dropout: 0 },
  vocabSize: 300,
  maxTokens: 256,
  steps: 20,
  warmup: 5,
  learningRate: 1e-2,
  ...more,
});
const losses = () => {
  const seen: number[] = [];
  const observer: TrainingObserver = { stepped: ({ loss }) => void seen.push(loss) };
  return { seen, observer };
};

describe("training on pairs of texts", () => {
  it("learns to translate, and keeps what writes the texts that it measured", async () => {
    const said: Record<string, unknown>[] = [];
    const given = options({ steps: 250, evalEvery: 50, metric: "bleu", averageLast: 2 });
    const result = await trainText(given, {
      runtime,
      onMessage: (_, data) => void said.push({ ...data }),
    });
    expect(result.metrics!["exactMatch"]).toBeGreaterThan(0.8);
    expect(result.trainingPairs + result.heldOutPairs).toBe(120);
    const samples = said.flatMap(
      (data) => (data["samples"] as { source: string; reference: string }[]) ?? [],
    );
    expect(samples.length).toBe(15);
    for (const { source, reference } of samples) expect(translate(source.split(" "))).toBe(reference);
    // The folder writes what was scored.
    const loaded = await loadModel(runtime, given.out, { kind: "encoder-decoder" });
    using weights = loaded.weights;
    using decoder = await Decoder.create({ ...loaded, weights, slots: 4, capacity: 20 });
    const order = new Random(1).fork("held out").permutation(120);
    const held = new Set(order.slice(0, result.heldOutPairs));
    const rows = sentences.filter((_, place) => held.has(place));
    const found = await transform(
      { ...loaded, decoder },
      rows.map((row) => row.join(" ")),
    );
    const texts = found.map(({ text }) => text);
    const score = bleu(texts, [rows.map(translate)]);
    expect(result.metrics!["bleu"]).toBeCloseTo(score.score, 10);
    expect(result.signatures!.bleu).toBe("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp");
  });

  it("goes on after an interruption to bit-equal losses and the same average", async () => {
    const more = {
      steps: 24,
      evalEvery: 6,
      averageLast: 3,
      evalRows: 4,
      sizes: { ...options().sizes, dropout: 0.2 },
    };
    const [whole, parts] = [options(more), options(more)];
    const first = losses();
    await trainText(whole, { runtime, observer: first.observer });
    const stop = new AbortController();
    const second = losses();
    await trainText(parts, {
      runtime,
      signal: stop.signal,
      observer: {
        stepped: (report) => {
          second.observer.stepped!(report, { steps: 0, secondsLeft: 0 });
          if (report.step === 15) stop.abort();
        },
      },
    });
    await resumeText(parts.out, { runtime, observer: second.observer });
    expect(second.seen).toEqual(first.seen);
    const [a, b] = await Promise.all(
      [whole, parts].map(({ out }) => readFile(path.join(out, "model.safetensors"))),
    );
    expect(a!.equals(b!)).toBe(true);
  });

  it("says which pairs are too long, and cuts, leaves out or refuses them", async () => {
    const long = path.join(root, "long.csv");
    await writeFile(
      long,
      `source,target\n${"ein ".repeat(60)},a\n${sentences
        .slice(0, 40)
        .map((sentence) => `${sentence.join(" ")},${translate(sentence)}\n`)
        .join("")}`,
    );
    const messages: string[] = [];
    const control = { runtime, onMessage: (message: string) => void messages.push(message) };
    const base = { data: long, eval: table, maxLength: 24, steps: 2, evalRows: 0 };
    await expect(trainText(options({ ...base, long: "refuse" }), control)).rejects.toThrow(
      "1 of 41 pairs have a text of more than 24 tokens (row 2)",
    );
    const skipped = await trainText(options({ ...base, long: "skip" }), control);
    expect(skipped.trainingPairs).toBe(40);
    expect(messages.some((message) => message.endsWith("they are left out"))).toBe(true);
    const cut = await trainText(options(base), control);
    expect(cut.trainingPairs).toBe(41);
    expect(messages.find((message) => message.endsWith("is cut off"))).toMatch(
      /\d+ tokens of sources and 0 of targets/,
    );
  });

  it("splits a long pair between sentences where both texts have as many", () => {
    const tokenizer = characterTokenizer("abcdefgh. A");
    const pair = (row: number, source: string, target: string) => ({ row, source, target });
    const messages: string[] = [];
    const found = encodePairs(
      "some",
      [
        pair(1, "Aa. Ab. Ac.", "Ad. Ae. Af."),
        pair(2, "Aa. Ab.", "Ad."),
        pair(3, "Aa. Ab. Ac. Ad.", "Ad. Ae."),
      ],
      tokenizer,
      { maxLength: 9, long: "split", prefix: "" },
      (message) => void messages.push(message),
    );
    expect(found.map(({ written }) => [written.row, written.source, written.target])).toEqual([
      [1, "Aa. Ab. ", "Ad. Ae. "],
      [1, "Ac.", "Af."],
      [2, "Aa. Ab.", "Ad."],
      [3, "Aa. Ab. Ac. Ad.", "Ad. Ae."],
    ]);
    expect(found.every(({ source, target }) => source.length <= 9 && target.length <= 9)).toBe(true);
    expect(messages[0]).toContain("1 pair is longer than 9 tokens and split between sentences");
    expect(messages[1]).toContain("1 of 4 pairs have a text of more than 9 tokens (row 3)");
  });

  it("counts warm-up in target tokens where asked", async () => {
    const rates: number[] = [];
    const { trainingPairs } = await trainText(
      options({ steps: 12, evalRows: 0, schedule: "inverse-root", warmupTokens: 300, learningRate: 1 }),
      { runtime, observer: { stepped: ({ learningRate }) => void rates.push(learningRate) } },
    );
    expect(trainingPairs).toBe(114);
    // The rate rises by equal steps to its peak, after which it falls with the root of the step.
    const peak = rates.indexOf(Math.max(...rates)) + 1;
    rates.slice(0, peak).forEach((rate, index) => {
      expect(rate).toBeCloseTo((index + 1) / peak, 6);
    });
    expect(rates[11]).toBeCloseTo(Math.sqrt(peak / 12), 6);
    expect(peak).toBeGreaterThan(1);
    expect(peak).toBeLessThan(12);
  });

  it("refuses what it cannot do, in words", async () => {
    await expect(trainText(options({ system: "gpt2" as "t5" }), { runtime })).rejects.toThrow(
      "there is no encoder-decoder gpt2; there are",
    );
    await expect(trainText(options({ maxLength: 64 }), { runtime })).rejects.toThrow(
      "choose a smaller --max-length",
    );
    await expect(trainText(options({ sizes: { experts: 3 } }), { runtime })).rejects.toThrow(
      "Transformer has no experts",
    );
  });
});

describe("fine-tuning on pairs of texts", () => {
  it.each(["t5", "bart", "mass", "mt5"] as const)(
    "goes on from the folder of a %s, with a prefix",
    async (system) => {
      const sizes = { hiddenSize: 32, numLayers: 1, numHeads: 4, contextLength: 64, dropout: 0 };
      const vocabSize = system.includes("t5") ? 160 : 300;
      const begun = options({ system, sizes, vocabSize, prefix: "translate: ", steps: 30, evalRows: 5 });
      const first = await trainText(begun, { runtime });
      const further = await finetuneText(
        {
          model: begun.out,
          data: table,
          prefix: "translate: ",
          out: path.join(root, `fine-${system}`),
          maxTokens: 256,
          steps: 40,
          learningRate: 5e-3,
          evalRows: 5,
          metric: "loss",
        },
        { runtime },
      );
      expect(further.metrics!.loss).toBeLessThan(first.metrics!.loss);
      // A text that is written is no empty one, whatever the tokens around a text are.
      expect(further.metrics!["tokenF1"]).toBeGreaterThan(0);
    },
  );
});
