import { mkdir, mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadForTask } from "../../src/checkpoints/index.js";
import { type Example, padRows } from "../../src/data/index.js";
import { headNames } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { EncoderProgram, Predictor } from "../../src/tasks/index.js";
import { writeTinyBert } from "../support/tiny-encoder.js";

let folder = "";
const place = (name: string) => path.join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  for (const head of headNames) {
    await mkdir(place(head));
    await writeTinyBert(place(head), head);
  }
  await mkdir(place("number"));
  await writeTinyBert(place("number"), "classify", 1);
});
afterAll(() => rm(folder, { recursive: true }));

const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
const texts = ["the dog was good", "a cat", "the very old film is not new and you really like it"];

/** What evaluation measures is the loss of the graph that training makes smaller; here it is by its definition. */
describe("the measured loss", () => {
  it("of classes is the mean of -log p", async () => {
    using predictor = await Predictor.load(place("classify"), { task: "classify" });
    const examples = texts.map((text, row) => ({ row, text, label: `LABEL_${row % 2}` }));
    const { metrics, predictions } = await predictor.evaluate(examples, { batchSize: 2 });
    const losses = predictions.map(
      ({ probabilities }, row) => -Math.log(probabilities![`LABEL_${row % 2}`]!),
    );
    expect(metrics["loss"]).toBeCloseTo(mean(losses), 5);
  });

  it("of numbers is the mean of squares", async () => {
    using predictor = await Predictor.load(place("number"), { task: "regress" });
    const examples = texts.map((text, row) => ({ row, text, label: row / 2 }));
    const { metrics, predictions } = await predictor.evaluate(examples, { batchSize: 2 });
    expect(metrics["loss"]).toBeCloseTo(
      mean(predictions.map(({ value }, row) => (value! - row / 2) ** 2)),
      5,
    );
  });

  it("of numbers needs a head with one answer", async () => {
    await expect(Predictor.load(place("classify"), { task: "regress" })).rejects.toThrow(
      "has 2 classes, but the task has 1",
    );
  });

  it("of tags is the mean over the words' first tokens", async () => {
    using predictor = await Predictor.load(place("tag"), { task: "tag" });
    const examples = texts.map((text, row): Example => {
      const words = text.split(" ");
      return { row, text, words, label: words.map((_, word) => `LABEL_${(row + word) % 2}`) };
    });
    const { metrics } = await predictor.evaluate(examples, { batchSize: 2 });
    using runtime = createRuntime();
    const { model, weights, tokenizer } = await loadForTask(runtime, place("tag"), "tag");
    using held = weights;
    using program = await EncoderProgram.create(model, held, (inputs) => ({ logits: model.forward(inputs) }));
    const losses: number[] = [];
    for (const [row, { words }] of examples.entries()) {
      const encoding = tokenizer.encodeWords(words!);
      const { logits } = await program.run(padRows([encoding], { padId: 0, left: false }));
      encoding.wordIds.forEach((word, token) => {
        if (word < 0 || encoding.wordIds[token - 1] === word) return;
        const [a, b] = logits.data.subarray(2 * token, 2 * token + 2) as unknown as [number, number];
        const right = (row + word) % 2 === 0 ? a : b;
        losses.push(Math.log(Math.exp(a) + Math.exp(b)) - right);
      });
    }
    expect(losses.length).toBe(texts.join(" ").split(" ").length);
    expect(metrics["loss"]).toBeCloseTo(mean(losses), 5);
  });

  it("of spans is half of -log p of start and end", async () => {
    using predictor = await Predictor.load(place("span"), { task: "span" });
    const asked = texts.map((pair) => ({ text: "what is it", pair }));
    const answers = await predictor.predict(asked);
    const examples = asked.map((input, row): Example => {
      const { answer, start } = answers[row]!;
      return { row, ...input, label: answer === "" ? [] : [{ text: answer!, start: start! }] };
    });
    const { metrics } = await predictor.evaluate(examples, { batchSize: 2 });
    expect(metrics["exactMatch"]).toBeCloseTo(1, 6);
    expect(metrics["loss"]).toBeCloseTo(
      mean(answers.map(({ probability }) => -Math.log(probability!) / 2)),
      4,
    );
  });

  it("of choices is the mean of -log p, however many are offered", async () => {
    using predictor = await Predictor.load(place("choice"), { task: "choice" });
    const examples = texts.map((text, row) => ({
      row,
      text,
      choices: texts.slice(0, 2 + (row % 2)),
      label: 1,
    }));
    const { metrics, predictions } = await predictor.evaluate(examples, { batchSize: 3 });
    expect(metrics["loss"]).toBeCloseTo(
      mean(predictions.map(({ probabilities }) => -Math.log(probabilities!["1"]!))),
      5,
    );
  });
});
