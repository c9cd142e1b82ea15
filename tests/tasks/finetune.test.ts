import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import {
  Predictor,
  crossValidate,
  finetune,
  readExamples,
  resumeCrossValidation,
  resumeFinetuning,
} from "../../src/tasks/index.js";
import { SafetensorsFile } from "../../src/formats/index.js";
import { writeTinyBert } from "../support/tiny-encoder.js";

let folder = "";
let model = "";
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  model = path.join(folder, "model");
  await mkdir(model);
  await writeTinyBert(model);
});
afterAll(() => rm(folder, { recursive: true }));

const place = (name: string) => path.join(folder, name);
const file = async (name: string, content: string): Promise<string> => {
  await writeFile(place(name), content);
  return place(name);
};
const random = new Random(3);
const pick = <T>(list: readonly T[]): T => list[random.integer(list.length)]!;
const nouns = ["film", "food", "song", "dog", "cat", "play"];
const fast = { epochs: 8, batch: 8, learningRate: 3e-3, validation: 0.2 } as const;

/** Rows whose label is the word that they have. */
const reviews = (count: number): string =>
  Array.from({ length: count }, () => {
    const label = pick(["good", "bad"]);
    return `the ${pick(nouns)} was ${pick(["very ", "really ", ""])}${label},${label}`;
  }).join("\n");

describe("fine-tuning learns", () => {
  it("to classify, in five lines, and keeps what Hugging Face transformers reads", async () => {
    const data = await file("reviews.csv", `text,label\n${reviews(160)}\n`);
    const out = place("classify");
    const result = await finetune({ model, task: "classify", data, out, ...fast });
    const predictor = await Predictor.load(out);
    const [answer] = await predictor.predict(["the dog was really bad"]);
    expect(answer.label).toBe("bad");

    expect(result.metrics!["accuracy"]).toBeGreaterThan(0.95);
    expect(result.labels).toEqual(["bad", "good"]);
    expect(answer.probability).toBeGreaterThan(0.8);
    expect(answer.probabilities!["bad"]! + answer.probabilities!["good"]!).toBeCloseTo(1, 6);
    const [open] = await predictor.predict(["the dog was good"], { threshold: 1 });
    expect(open.label).toBe("bad");
    predictor.dispose();
    expect(await readFile(path.join(out, "confusion.svg"), "utf8")).toMatch(/^<svg [\s\S]*<\/svg>\n$/);
    expect(JSON.parse(await readFile(path.join(out, "config.json"), "utf8"))).toMatchObject({
      architectures: ["BertForSequenceClassification"],
      id2label: { "0": "bad", "1": "good" },
    });
  });

  it("what a checkpoint of transformers says by its files alone", async () => {
    await rm(path.join(place("classify"), "task.json"));
    using predictor = await Predictor.load(place("classify"));
    expect(predictor.task).toBe("classify");
    expect(predictor.labels).toEqual(["bad", "good"]);
    const [answer] = await predictor.predict(["the food was good"]);
    expect(answer.label).toBe("good");
  });

  it("to compare two texts", async () => {
    const rows = Array.from({ length: 200 }, () => {
      const [a, b] = [pick(nouns), pick(nouns.slice(0, 2))];
      return JSON.stringify({
        sentence1: `the ${b}`,
        sentence2: `a ${a} and a ${b}`,
        label: a === b ? "same" : "more",
      });
    });
    const data = await file("pairs.jsonl", rows.join("\n"));
    const result = await finetune({
      model,
      task: "pair",
      data,
      out: place("pair"),
      ...fast,
      classWeights: "balanced",
    });
    expect(result.metrics!["accuracy"]).toBeGreaterThan(0.7);
    using predictor = await Predictor.load(place("pair"));
    const alone = await predictor.predict([{ text: "the film", pair: "a film and a film" }]);
    const among = await predictor.predict([
      { text: "the food", pair: "a dog and a food and a dog and a song" },
      { text: "the film", pair: "a film and a film" },
    ]);
    expect(among[1]!.probability).toBeCloseTo(alone[0].probability!, 5);
  });

  it("numbers, in their own scale", async () => {
    const rows = Array.from({ length: 200 }, () => {
      const good = random.integer(4);
      return `${"good ".repeat(good)}${"bad ".repeat(3 - good)}film\t${1000 + 100 * good}`;
    });
    const data = await file("numbers.tsv", `text\tscore\n${rows.join("\n")}\n`);
    const result = await finetune({ model, task: "regress", data, out: place("regress"), ...fast });
    expect(result.metrics!["pearson"]).toBeGreaterThan(0.9);
    expect(result.metrics!["rmse"]).toBeLessThan(60);
    const config = JSON.parse(await readFile(path.join(place("regress"), "config.json"), "utf8")) as object;
    expect(config).toMatchObject({ id2label: { "0": "LABEL_0" } });
    using predictor = await Predictor.load(place("regress"));
    const [low, high] = await predictor.predict(["bad bad bad film", "good good good film"]);
    expect(low!.value).toBeLessThan(1100);
    expect(high!.value).toBeGreaterThan(1200);
  });

  it("tags of words, in rows longer than the model reads too", async () => {
    const rows = Array.from({ length: 160 }, () => {
      const tokens = Array.from({ length: 3 + random.integer(20) }, () => pick([...nouns, "the", "was"]));
      return JSON.stringify({
        tokens,
        tags: tokens.map((word) => (["dog", "cat"].includes(word) ? "B-PET" : "O")),
      });
    });
    const data = await file("tags.jsonl", rows.join("\n"));
    const result = await finetune({ model, task: "tag", data, out: place("tag"), ...fast, maxLength: 16 });
    expect(result.metrics!["f1"]).toBeGreaterThan(0.95);
    using predictor = await Predictor.load(place("tag"));
    const words = Array.from({ length: 50 }, (_, i) => (i % 10 === 9 ? "cat" : "film"));
    const [{ tags }] = await predictor.predict([{ text: "", words }]);
    expect(tags).toEqual(words.map((word) => (word === "cat" ? "B-PET" : "O")));
  });

  it("answers in a text, through windows where it is long, and that there is none", async () => {
    const rows = Array.from({ length: 300 }, () => {
      const pet = pick(["dog", "cat", "dog", "cat", ""]);
      const words = Array.from({ length: 2 + random.integer(8) }, () =>
        pick(["film", "food", "song", "was", "the"]),
      );
      if (pet !== "") words[random.integer(words.length)] = pet;
      const context = words.join(" ");
      const answers =
        pet === "" ? { text: [], answer_start: [] } : { text: [pet], answer_start: [context.indexOf(pet)] };
      return JSON.stringify({ question: "is it a dog or a cat", context, answers });
    });
    const data = await file("answers.jsonl", rows.join("\n"));
    const result = await finetune({
      model,
      task: "span",
      data,
      out: place("span"),
      ...fast,
      maxLength: 32,
      stride: 4,
    });
    expect(result.metrics!["exactMatch"]).toBeGreaterThan(0.9);
    using predictor = await Predictor.load(place("span"));
    const context = `${"the film was ".repeat(20)}cat ${"food song ".repeat(10)}`;
    const [found, none] = await predictor.predict([
      { text: "is it a dog or a cat", pair: context },
      { text: "is it a dog or a cat", pair: "the film was food" },
    ]);
    expect(found).toMatchObject({
      answer: "cat",
      start: context.indexOf("cat"),
      end: context.indexOf("cat") + 3,
    });
    expect(none!.answer).toBe("");
  });

  it("choices, of which rows have different numbers", async () => {
    const rows = Array.from({ length: 200 }, () => {
      const choices = Array.from({ length: 2 + random.integer(2) }, () => `bad ${pick(nouns)}`);
      const label = random.integer(choices.length);
      choices[label] = `good ${pick(nouns)}`;
      return JSON.stringify({ text: "it is a", choices, label });
    });
    const data = await file("choices.jsonl", rows.join("\n"));
    const result = await finetune({ model, task: "choice", data, out: place("choice"), ...fast });
    expect(result.metrics!["accuracy"]).toBeGreaterThan(0.9);
    using predictor = await Predictor.load(place("choice"));
    const [answer] = await predictor.predict([
      { text: "it is a", choices: ["bad cat", "bad dog", "good song"] },
    ]);
    expect(answer.choice).toBe(2);
  });
});

describe("fine-tuning", () => {
  const data = () => file("small.csv", `text,label\n${reviews(60)}\n`);

  it("goes on after an interruption to the weights of an uninterrupted run", async () => {
    const options = {
      model,
      task: "classify",
      data: await data(),
      ...fast,
      epochs: 3,
      evalEvery: 3,
    } as const;
    await finetune({ ...options, out: place("whole") });
    const controller = new AbortController();
    const stopped = await finetune(
      { ...options, out: place("halves") },
      {
        signal: controller.signal,
        observer: {
          stepped: ({ step }) => {
            if (step === 7) controller.abort();
          },
        },
      },
    );
    expect(stopped).toMatchObject({ outcome: "interrupted" });
    expect((await resumeFinetuning(place("halves"))).outcome).toBe("finished");
    const bytes = async (run: string) => {
      const saved = await SafetensorsFile.open(path.join(place(run), "training.safetensors"));
      const name = "weights/classifier.weight";
      const target = new Uint8Array(saved.header.tensors.get(name)!.byteLength);
      await saved.readInto(name, target);
      return target;
    };
    expect(await bytes("halves")).toEqual(await bytes("whole"));
  });

  it("keeps frozen parts as they were, and lower layers nearer to it", async () => {
    const out = place("frozen");
    await finetune({ model, task: "classify", data: await data(), out, ...fast, epochs: 1, freezeLayers: 1 });
    const moved = async (name: string): Promise<number> => {
      const [before, after] = await Promise.all(
        [model, out].map(async (at) => {
          const saved = await SafetensorsFile.open(path.join(at, "model.safetensors"));
          const target = new Uint8Array(saved.header.tensors.get(name)!.byteLength);
          await saved.readInto(name, target);
          return new Float32Array(target.buffer);
        }),
      );
      return Math.max(...before!.map((value, index) => Math.abs(value - after![index]!)));
    };
    expect(await moved("bert.embeddings.word_embeddings.weight")).toBe(0);
    expect(await moved("bert.encoder.layer.0.output.dense.weight")).toBe(0);
    expect(await moved("bert.encoder.layer.1.output.dense.weight")).toBeGreaterThan(1e-4);
    await expect(
      finetune({ model, task: "classify", data: await data(), out: place("toomany"), freezeLayers: 5 }),
    ).rejects.toThrow("--freeze-layers must be at most 2, the layers of the model, not 5");
  });

  it("chooses the threshold that answers held-out rows best, keeps it and predicts by it", async () => {
    // Words say little here: the rare class is answered only from a probability far below a half.
    const rows = (count: number) =>
      Array.from({ length: count }, () => {
        const hint = random.integer(2) === 0;
        const label = random.integer(10) < (hint ? 3 : 1) ? "yes" : "no";
        return `the ${pick(nouns)} was ${hint ? "good" : "bad"},${label}`;
      }).join("\n");
    const noisy = await file("noisy.csv", `text,label\n${rows(120)}\n`);
    const dev = await file("noisy-dev.csv", `text,label\n${rows(80)}\n`);
    const out = place("threshold");
    const { metrics } = await finetune({
      ...{ model, task: "classify", data: noisy, eval: dev, out, threshold: "auto" },
      ...{ epochs: 2, batch: 8, learningRate: 1e-3 },
    });
    const examples = await readExamples(dev, { task: "classify", skipUnlabelled: false, skipBadRows: false });
    using predictor = await Predictor.load(out);
    expect(predictor.threshold).toBe(metrics!["threshold"]);
    const f1 = async (threshold?: number) =>
      (await predictor.evaluate(examples, { threshold })).metrics["f1"]!;
    expect(await f1()).toBeCloseTo(metrics!["f1"]!, 10);
    expect(await f1()).toBeGreaterThan(await f1(0.5));
    for (const other of [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4])
      expect(await f1()).toBeGreaterThanOrEqual(await f1(other));
    const predictions = await predictor.predict(examples.map(({ text }) => text));
    predictions.forEach(({ label, probabilities }) => {
      expect(label).toBe(probabilities!["yes"]! >= predictor.threshold! ? "yes" : "no");
    });
  });

  it("refuses a threshold where none decides", async () => {
    const three = await file("three.csv", `text,label\n${reviews(20)}\nthe dog,other\nthe cat,other\n`);
    const start = { model, threshold: "auto" } as const;
    await expect(
      finetune({ ...start, task: "classify", data: three, eval: three, out: place("undecided") }),
    ).rejects.toThrow("a threshold is chosen between two classes, and there are 3: bad, good, other");
    const scores = await file("scores.csv", "text,label\nthe dog,1\nthe cat,2\nthe film,3\n");
    await expect(
      finetune({ ...start, task: "regress", data: scores, eval: scores, out: place("undecided") }),
    ).rejects.toThrow("the task regress has no threshold");
  });

  it("cross-validates on every row once", async () => {
    const { folds, summary } = await crossValidate({
      model,
      task: "classify",
      data: await data(),
      out: place("folds"),
      folds: 3,
      ...fast,
      epochs: 4,
    });
    expect(folds.map(({ rows }) => rows)).toEqual([20, 20, 20]);
    const values = folds.map(({ metrics }) => metrics["accuracy"]!);
    expect(summary["accuracy"]!.mean).toBeCloseTo(values.reduce((a, b) => a + b, 0) / 3, 10);
    expect(existsSync(path.join(place("folds"), "fold-3", "model.safetensors"))).toBe(true);
  });

  it("goes on with a cross-validation that was interrupted, without running what is done again", async () => {
    const options = {
      model,
      task: "classify",
      data: await data(),
      folds: 3,
      ...fast,
      epochs: 3,
      evalEvery: 2,
    } as const;
    const whole = await crossValidate({ ...options, out: place("folds-whole") });
    expect(whole).toMatchObject({ outcome: "finished", count: 3 });
    const out = place("folds-halves");
    const controller = new AbortController();
    let steps = 0;
    const stopped = await crossValidate(
      { ...options, out },
      {
        signal: controller.signal,
        observer: {
          stepped: ({ step }) => {
            steps++;
            if (steps > step && step === 4) controller.abort();
          },
        },
      },
    );
    expect(stopped).toMatchObject({ outcome: "interrupted", count: 3, folds: [whole.folds[0]] });
    await expect(crossValidate({ ...options, out })).rejects.toThrow("already holds a cross-validation");
    const made = await stat(path.join(out, "fold-1", "training.safetensors"));
    const resumed: number[] = [];
    const all = await resumeCrossValidation(out, { observer: { resumed: (step) => resumed.push(step) } });
    expect(resumed).toEqual([4]);
    expect(all).toEqual(whole);
    expect((await stat(path.join(out, "fold-1", "training.safetensors"))).mtimeMs).toBe(made.mtimeMs);
    // Once more changes nothing; other rows would be other folds.
    expect(await resumeCrossValidation(out)).toEqual(whole);
    await file("small.csv", `text,label\n${reviews(61)}\n`);
    await expect(resumeCrossValidation(out)).rejects.toThrow("has 61 rows, but had 60");
    await expect(resumeCrossValidation(place("folds-none"))).rejects.toThrow("there is nothing to resume");
  });

  it("tells of empty, unlabelled and cut rows, and loses none silently", async () => {
    const long = "the film was good and ".repeat(30);
    const odd = await file("odd.csv", `text,label\n${reviews(30)}\n,good\n${long},bad\nthe dog,\n`);
    const options = { model, task: "classify", data: odd, out: place("odd"), ...fast, epochs: 1 } as const;
    await expect(finetune(options)).rejects.toThrow(
      "1 of 33 rows have no label (row 34); add labels, or leave the rows out with --skip-unlabelled",
    );
    const said: string[] = [];
    await finetune({ ...options, skipUnlabelled: true }, { onMessage: (message) => said.push(message) });
    expect(said.join("\n")).toContain("1 text is empty (rows 32)");
    expect(said.join("\n")).toContain("no label (row 34); they are left out");
    expect(said.join("\n")).toMatch(/1 text is longer than 64 tokens and is cut \(\d+ tokens left out\)/);
  });

  it("refuses one class, unseen labels and a head for other classes", async () => {
    const one = await file("one.csv", "text,label\nthe dog,x\nthe cat,x\nthe film,x\n");
    const start = { model, task: "classify", out: place("refused"), ...fast } as const;
    await expect(finetune({ ...start, data: one })).rejects.toThrow('one.csv has one class only, "x"');
    const other = await file("other.csv", "text,label\nthe dog,good\nthe cat,neutral\n");
    await expect(finetune({ ...start, data: await data(), eval: other })).rejects.toThrow(
      'row 3 has the label "neutral", which is not in the training data; its labels are bad, good',
    );
    const third = await file("third.csv", "text,label\nthe dog,a\nthe cat,b\nthe film,c\nthe film,c\n");
    await expect(finetune({ ...start, model: place("classify"), data: third })).rejects.toThrow(
      "has 2 classes, but the task has 3",
    );
    await expect(finetune({ ...start, data: await data(), metric: "pearson" })).rejects.toThrow(
      'the task classify has no metric "pearson"; it has loss, accuracy, macroF1, f1, matthews',
    );
    await expect(Predictor.load(model)).rejects.toThrow(
      "is not fine-tuned for a task: it holds a BertForMaskedLM",
    );
  });
});
