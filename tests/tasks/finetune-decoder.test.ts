import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import { loadModel } from "../../src/checkpoints/index.js";
import { SafetensorsFile, loadTokenizer } from "../../src/formats/index.js";
import { load } from "../../src/library/index.js";
import { gpt1, llama } from "../../src/models/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { Predictor, finetune, resumeFinetuning } from "../../src/tasks/index.js";
import { rowTokenizer } from "../../src/tasks/row-tokens.js";
import { writeTinyBert } from "../support/tiny-encoder.js";
import { writeTinyDecoder } from "../support/tiny-decoder.js";

let folder = "";
const names = ["gpt1", "gpt2", "llama", "palm"] as const;
const place = (name: string) => path.join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  for (const name of [...names, "bert"]) await mkdir(place(name));
  for (const name of names) await writeTinyDecoder(place(name), name);
  await writeTinyBert(place("bert"));
});
afterAll(() => rm(folder, { recursive: true }));

const file = async (name: string, rows: readonly object[]): Promise<string> => {
  await writeFile(place(name), rows.map((row) => JSON.stringify(row)).join("\n"));
  return place(name);
};
const random = new Random(3);
const pick = <T>(list: readonly T[]): T => list[random.integer(list.length)]!;
const nouns = ["film", "food", "song", "dog", "cat", "play"];
const many = <T>(count: number, make: () => T): T[] => Array.from({ length: count }, make);
const fast = { epochs: 8, batch: 8, learningRate: 3e-3, validation: 0.2 } as const;

const reviews = () =>
  file(
    "reviews.jsonl",
    many(160, () => {
      const label = pick(["good", "bad"]);
      return { text: `the ${pick(nouns)} was ${label} and the ${pick(nouns)}`, label };
    }),
  );

describe("A decoder learns", () => {
  it.each(names)("%s: to classify, from the last token of each row", async (name) => {
    const out = place(`${name}-classify`);
    const { metrics } = await finetune({
      ...{ model: place(name), task: "classify", data: await reviews(), out },
      ...fast,
    });
    expect(metrics!["accuracy"]).toBeGreaterThan(0.95);
    using predictor = await Predictor.load(out);
    const texts = [
      "the dog was bad and the cat",
      "the dog was good and the song",
      "the song was bad and the song",
    ];
    const together = await predictor.predict(texts);
    expect(together.map(({ label }) => label)).toEqual(["bad", "good", "bad"]);
    // What a row answers does not depend on the padding behind it.
    const [alone] = await predictor.predict([texts[0]!]);
    expect(together[0]!.probability).toBeCloseTo(alone.probability!, 5);
    using loaded = await load(out, { task: "classify" });
    expect(loaded.kind).toBe("decoder");
    expect((await loaded.predict(texts[1]!)).label).toBe("good");
    const { attention } = await loaded.look("the dog was bad");
    expect(attention).toHaveLength(2);
    await expect(loadModel(createRuntime(), out)).rejects.toThrow("was fine-tuned and writes no text");
  });

  it("a similarity in both orders, so that the order of a pair says nothing", async () => {
    const rows = many(240, () => {
      const [a, b] = [pick(["good", "bad"]), pick(["good", "bad"])];
      const score = [a, b].filter((word) => word === "good").length;
      return { sentence1: `the ${a} ${pick(nouns)}`, sentence2: `a ${pick(nouns)} was ${b}`, score };
    });
    const data = await file("similar.jsonl", rows);
    const out = place("similar");
    const { metrics } = await finetune({
      ...{ model: place("gpt1"), task: "regress", data, out, bothOrders: true },
      ...fast,
      epochs: 12,
    });
    expect(metrics!["pearson"]).toBeGreaterThan(0.8);
    using predictor = await Predictor.load(out);
    const [ab, ba] = await predictor.predict([
      { text: "the dog was good", pair: "a cat" },
      { text: "a cat", pair: "the dog was good" },
    ]);
    expect(ab!.value).toBeCloseTo(ba!.value!, 4);
    await expect(
      finetune({
        model: place("gpt1"),
        task: "classify",
        data,
        out: place("no"),
        bothOrders: true,
        textColumn: "sentence1",
        labelColumn: "score",
      }),
    ).rejects.toThrow("in the tasks pair and regress, not in classify");
  });

  it("choices, of which rows have different numbers", async () => {
    const rows = many(200, () => {
      const choices = many(2 + random.integer(2), () => `bad ${pick(nouns)}`);
      const label = random.integer(choices.length);
      choices[label] = `good ${pick(nouns)}`;
      return { text: "it is a", choices, label };
    });
    const out = place("choice");
    const data = await file("choices.jsonl", rows);
    const { metrics } = await finetune({ model: place("gpt1"), task: "choice", data, out, ...fast });
    expect(metrics!["accuracy"]).toBeGreaterThan(0.9);
    const stored = await SafetensorsFile.open(path.join(out, "model.safetensors"));
    expect([...stored.header.tensors.keys()]).toContain("multiple_choice_head.summary.weight");
    const config = JSON.parse(await readFile(path.join(out, "config.json"), "utf8")) as object;
    expect(config).toMatchObject({ architectures: ["OpenAIGPTDoubleHeadsModel"] });
  });

  it("tags of words, each from its last token, which has seen all of it", async () => {
    const rows = many(160, () => {
      const tokens = many(3 + random.integer(20), () => pick([...nouns, "the", "was"]));
      return { tokens, tags: tokens.map((word) => (["dog", "cat"].includes(word) ? "B-PET" : "O")) };
    });
    const data = await file("tags.jsonl", rows);
    const out = place("tag");
    const { metrics } = await finetune({
      model: place("gpt1"),
      task: "tag",
      data,
      out,
      ...fast,
      maxLength: 20,
    });
    expect(metrics!["f1"]).toBeGreaterThan(0.95);
  });

  it("where an answer stands, and at the extract token that there is none", async () => {
    const rows = many(400, () => {
      const pet = pick(["dog", "cat", ""]);
      const words = many(2 + random.integer(6), () => pick(["film", "food", "song", "was", "the"]));
      if (pet !== "") words[random.integer(words.length)] = pet;
      const context = words.join(" ");
      const answers =
        pet === "" ? { text: [], answer_start: [] } : { text: [pet], answer_start: [context.indexOf(pet)] };
      return { question: "is it a dog or a cat", context, answers };
    });
    const data = await file("answers.jsonl", rows);
    const out = place("span");
    const { metrics } = await finetune({
      model: place("gpt1"),
      task: "span",
      data,
      out,
      ...fast,
      maxLength: 40,
      stride: 4,
    });
    expect(metrics!["exactMatch"]).toBeGreaterThan(0.8);
  });
});

describe("Fine-tuning a decoder", () => {
  it("puts GPT-1's start, delimiter and extract around texts, as new tokens, and keeps them in the files", async () => {
    const own = await loadTokenizer(place("gpt1"));
    const tokenizer = rowTokenizer(own, gpt1);
    const size = own.vocabSize;
    const [a, b] = [own.encode("the dog"), own.encode("a cat")];
    expect(tokenizer.encodePair("the dog").ids).toEqual([size, ...a, size + 2]);
    expect(tokenizer.encodePair("the dog", "a cat").ids).toEqual([size, ...a, size + 1, ...b, size + 2]);
    expect(rowTokenizer(tokenizer, gpt1)).toBe(tokenizer);
    const kept = await loadTokenizer(place("gpt1-classify"));
    expect(kept.encodePair("the dog", "a cat").ids).toEqual(tokenizer.encodePair("the dog", "a cat").ids);
  });

  it("parts two texts by the end-of-text token where a decoder's tokenizer puts nothing between them", async () => {
    const own = await loadTokenizer(place("llama"));
    const [a, b] = [own.encode("the dog"), own.encode("a cat")];
    expect(rowTokenizer(own, llama).encodePair("the dog", "a cat").ids).toEqual([
      ...a,
      own.endOfTextId,
      ...b,
    ]);
    expect(rowTokenizer(own, llama).encodePair("the dog").ids).toEqual(a);
  });

  it("learns the rows' words beside the task by half, as published, and reports both parts", async () => {
    const parts: Readonly<Record<string, number>>[] = [];
    const losses: number[] = [];
    await finetune(
      {
        model: place("gpt1"),
        task: "classify",
        data: await reviews(),
        out: place("parts"),
        ...fast,
        epochs: 1,
      },
      {
        observer: {
          stepped: ({ loss, parts: each }) => {
            losses.push(loss);
            parts.push(each ?? {});
          },
        },
      },
    );
    const { classify, language } = parts[0]! as { classify: number; language: number };
    const { vocabSize } = await loadTokenizer(place("parts"));
    // A new head and a new model know nothing: ln 2 and ln of the vocabulary, three new tokens included.
    expect(classify).toBeCloseTo(Math.log(2), 1);
    expect(Math.abs(language - Math.log(vocabSize))).toBeLessThan(0.4);
    expect(losses[0]!).toBeCloseTo(classify + 0.5 * language, 4);
  });

  it("learns the task alone with --lm-coefficient 0, and refuses an encoder another one", async () => {
    const options = { task: "classify", data: await reviews(), ...fast, epochs: 0.2 } as const;
    const parts: string[] = [];
    await finetune(
      { ...options, model: place("gpt1"), out: place("alone"), lmCoefficient: 0 },
      { observer: { stepped: ({ parts: each }) => parts.push(...Object.keys(each ?? {})) } },
    );
    expect(parts).not.toContain("language");
    await expect(
      finetune({ ...options, model: place("bert"), out: place("no"), lmCoefficient: 0.5 }),
    ).rejects.toThrow("is an encoder, which predicts no next words; leave out --lm-coefficient");
    await expect(
      finetune({ ...options, model: place("gpt1"), out: place("no"), freezeEmbeddings: true }),
    ).rejects.toThrow("learns embeddings of its new tokens");
  });

  it("goes on after an interruption to the weights of an uninterrupted run", async () => {
    const options = {
      model: place("gpt1"),
      task: "classify",
      data: await reviews(),
      ...fast,
      epochs: 1,
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
    expect(stopped.outcome).toBe("interrupted");
    expect((await resumeFinetuning(place("halves"))).outcome).toBe("finished");
    const bytes = async (run: string) => {
      const saved = await SafetensorsFile.open(path.join(place(run), "training.safetensors"));
      const target = new Uint8Array(saved.header.tensors.get("weights/score.weight")!.byteLength);
      await saved.readInto("weights/score.weight", target);
      return target;
    };
    expect(await bytes("halves")).toEqual(await bytes("whole"));
  });
});
