import { existsSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import { kindIn } from "../../src/checkpoints/index.js";
import { SafetensorsFile } from "../../src/formats/index.js";
import { load } from "../../src/library/index.js";
import {
  type FinetuneRequest,
  Predictor,
  finetune,
  finetuneText,
  resumeFinetuning,
  trainText,
} from "../../src/tasks/index.js";
import { lineage } from "../support/cli.js";
import { writeTinyDecoder } from "../support/tiny-decoder.js";
import { writeTinyBert } from "../support/tiny-encoder.js";

let folder = "";
const place = (name: string) => path.join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-adapter-tasks-"));
  for (const name of ["llama", "gpt1", "bert", "three"]) await mkdir(place(name));
  await writeTinyDecoder(place("llama"), "llama");
  await writeTinyDecoder(place("gpt1"), "gpt1");
  await writeTinyBert(place("bert"));
  await writeTinyBert(place("three"), "classify", 3);
});
afterAll(() => rm(folder, { recursive: true }));

const random = new Random(3);
const pick = <T>(list: readonly T[]): T => list[random.integer(list.length)]!;
const nouns = ["film", "food", "song", "dog", "cat", "play"];
const rows = Array.from({ length: 160 }, () => {
  const label = pick(["good", "bad"]);
  return { text: `the ${pick(nouns)} was ${label} and the ${pick(nouns)}`, label };
});
const data = async (): Promise<string> => {
  await writeFile(place("reviews.jsonl"), rows.map((row) => JSON.stringify(row)).join("\n"));
  return place("reviews.jsonl");
};
const texts = ["the dog was bad and the cat", "the dog was good and the song"];
const common = { epochs: 6, batch: 8, learningRate: 1e-2, validation: 0.2, rank: 4, alpha: 8 } as const;
const tensorsOf = async (name: string) => {
  const { header } = await SafetensorsFile.open(path.join(place(name), "adapter_model.safetensors"));
  return new Map([...header.tensors].map(([one, { shape }]) => [one, shape]));
};
const configOf = (name: string) =>
  JSON.parse(readFileSync(path.join(place(name), "adapter_config.json"), "utf8")) as Record<string, unknown>;

describe("an adapter learns a task", () => {
  it.each([
    ["bert", "lora", { dora: false }],
    ["bert", "qlora", { dora: false }],
    ["bert", "lora", { dora: true }],
    ["llama", "lora", { dora: false }],
    // A base with a head for other classes: the adapter's is a new one.
    ["three", "lora", { dora: false, newHead: true }],
  ] as const)("%s, %s, %o", async (base, adapter, more) => {
    const name = `${base}-${adapter}-${JSON.stringify(more).length}`;
    const before = readFileSync(path.join(place(base), "model.safetensors"));
    const request: FinetuneRequest = {
      ...{ model: place(base), task: "classify", data: await data(), out: place(name), adapter },
      ...common,
      ...more,
    };
    const { metrics } = await finetune(request);
    expect(metrics!["accuracy"]).toBeGreaterThan(0.9);
    expect(readFileSync(path.join(place(base), "model.safetensors")).equals(before)).toBe(true);
    expect(existsSync(path.join(place(name), "model.safetensors"))).toBe(false);
    const head = base === "llama" ? "score" : "classifier";
    // A pooler that the base does not have is learned, too.
    const whole = base === "bert" ? ["classifier", "pooler"] : [head];
    expect(configOf(name)).toMatchObject({
      task_type: "SEQ_CLS",
      modules_to_save: whole,
      use_dora: more.dora,
      r: 4,
    });
    const tensors = await tensorsOf(name);
    expect(tensors.get(`base_model.model.${head}.weight`)).toEqual([2, 32]);
    expect([...tensors.keys()].filter((one) => one.includes(`${head}.lora`))).toEqual([]);
    const quantize = adapter === "qlora" ? ({ bits: "nf4" } as const) : undefined;
    using beside = await Predictor.load(place(base), { adapter: place(name), quantize });
    expect(beside.labels).toEqual(["bad", "good"]);
    const answers = await beside.predict(texts);
    expect(answers.map(({ label }) => label)).toEqual(["bad", "good"]);
    using merged = await Predictor.load(place(base), {
      adapter: place(name),
      quantize,
      mergeAdapter: true,
    });
    const same = await merged.predict(texts);
    same.forEach(({ probability }, i) => {
      expect(probability).toBeCloseTo(answers[i]!.probability!, 4);
    });
    using loaded = await load(place(base), {
      adapter: place(name),
      task: "classify",
      ...(quantize && { quantize }),
    });
    expect((await loaded.predict(texts[0]!)).label).toBe("bad");
  });

  it("goes on as if never stopped, to the byte, with dropout", async () => {
    const request = async (out: string): Promise<FinetuneRequest> => ({
      ...{ model: place("bert"), task: "classify", data: await data(), out: place(out), adapter: "lora" },
      ...{ ...common, epochs: 2, loraDropout: 0.1 },
    });
    await finetune(await request("whole"));
    const controller = new AbortController();
    const stopped = await finetune(await request("again"), {
      signal: controller.signal,
      observer: { stepped: ({ step }) => void (step === 5 && controller.abort()) },
    });
    expect(stopped.outcome).toBe("interrupted");
    await resumeFinetuning(place("again"));
    const bytes = (name: string) => readFile(path.join(place(name), "adapter_model.safetensors"));
    expect((await bytes("again")).equals(await bytes("whole"))).toBe(true);
  });

  it("of numbers and tags, with peft's words for them", async () => {
    const write = async (name: string, made: readonly object[]) => {
      await writeFile(place(name), made.map((row) => JSON.stringify(row)).join("\n"));
      return place(name);
    };
    const few = { ...common, epochs: 1 };
    const numbers = await write(
      "numbers.jsonl",
      rows.map(({ text, label }) => ({ text, label: label === "good" ? 7 : 3 })),
    );
    const base = { model: place("bert"), adapter: "lora" } as const;
    await finetune({ ...base, task: "regress", data: numbers, out: place("numbers"), ...common });
    expect(configOf("numbers")["task_type"]).toBe("SEQ_CLS");
    using predictor = await Predictor.load(place("bert"), { adapter: place("numbers") });
    const [bad, good] = await predictor.predict(texts);
    expect(bad!.value).toBeLessThan(5);
    expect(good!.value).toBeGreaterThan(5);
    const tags = await write(
      "tags.jsonl",
      rows.map(({ text }) => ({
        words: text.split(" "),
        tags: text.split(" ").map((word) => (nouns.includes(word) ? "NOUN" : "O")),
      })),
    );
    await finetune({ ...base, task: "tag", data: tags, out: place("tags"), ...few });
    expect(configOf("tags")).toMatchObject({ task_type: "TOKEN_CLS", modules_to_save: ["classifier"] });
    using tagger = await Predictor.load(place("bert"), { adapter: place("tags") });
    expect(tagger.labels).toEqual(["O", "NOUN"]);
  });

  it("is refused with words for what has no meaning", async () => {
    const base = { model: place("bert"), task: "classify", data: await data(), adapter: "lora" } as const;
    const failing = (more: Partial<FinetuneRequest>) =>
      finetune({ ...base, out: place("failing"), ...more }).catch((error: Error) => error.message);
    expect(await failing({ freezeLayers: 1 })).toContain("--freeze-layers has no meaning");
    expect(await failing({ layerDecay: 0.9 })).toContain("--layer-decay has no meaning");
    expect(await failing({ loraTargets: "c_attn" })).toMatch(/c_attn matches no linear layer.*query/);
    expect(await failing({ loraTargets: "classifier" })).toContain("but those that learn whole");
    expect(await failing({ loraTargets: "word_embeddings" })).toContain("matches no linear layer");
    expect(await failing({ model: place("gpt1") })).toContain("which an adapter does not hold");
    expect(await failing({ model: place("three") })).toContain("has 3 classes, but the task has 2");
    expect(existsSync(path.join(place("failing"), "adapter_config.json"))).toBe(false);
  });

  it("is refused beside a base that it was not made for, and alone", async () => {
    await finetune({
      ...{ model: place("bert"), task: "classify", data: await data(), out: place("own"), adapter: "lora" },
      ...{ ...common, epochs: 1 },
    });
    const adapter = place("own");
    await expect(Predictor.load(place("llama"), { adapter })).rejects.toThrow(
      /the adapter was made for another base|matches no linear layer|neither has the adapter/,
    );
    await expect(Predictor.load(adapter)).rejects.toThrow("holds an adapter and no model");
    await expect(load(place("bert"), { adapter, task: "tag" })).rejects.toThrow(
      "was fine-tuned for classify, not for tag",
    );
    const settings = JSON.parse(await readFile(path.join(adapter, "task.json"), "utf8")) as object;
    await writeFile(
      path.join(adapter, "task.json"),
      JSON.stringify({ ...settings, labels: ["a", "b", "c"] }),
    );
    await expect(Predictor.load(place("bert"), { adapter })).rejects.toThrow(
      "names 3 classes (a, b, c), but its head tells 2 apart",
    );
    await expect(Predictor.load(place("bert"), { mergeAdapter: true, task: "classify" })).rejects.toThrow(
      "there is no adapter to merge",
    );
  });
});

describe("an adapter of an encoder-decoder", () => {
  const words = { ein: "a", der: "the", hund: "dog", katze: "cat", rennt: "runs", schläft: "sleeps" };
  const german = Object.keys(words);
  const pairs = async (name: string, reversed: boolean): Promise<string> => {
    const lines = Array.from({ length: 120 }, () => {
      const source = Array.from({ length: 2 + random.integer(3) }, () => pick(german));
      const target = source.map((word) => words[word as keyof typeof words]);
      return `${source.join(" ")}\t${(reversed ? target.toReversed() : target).join(" ")}`;
    });
    await writeFile(place(name), `de\ten\n${lines.join("\n")}\n`);
    return place(name);
  };

  it.each([
    ["lora", false],
    ["qlora", false],
    ["lora", true],
  ] as const)("%s (DoRA: %s) learns, writes beside its base and merged", async (adapter, dora) => {
    const base = place("base");
    if (!existsSync(base))
      await trainText({
        ...{ out: base, system: "t5", data: await pairs("pairs.tsv", false), vocabSize: 300 },
        ...{ sizes: { hiddenSize: 32, numLayers: 1, numHeads: 4, dropout: 0 }, maxTokens: 256 },
        ...{ steps: 60, warmup: 5, learningRate: 1e-2, evalRows: 2, samples: 0 },
      });
    const out = place(`pairs-${adapter}-${dora}`);
    const seen: number[] = [];
    await finetuneText(
      {
        ...{ model: base, data: await pairs("reversed.tsv", true), out, adapter, dora },
        ...{ rank: 8, alpha: 16, steps: 60, maxTokens: 256, learningRate: 2e-2, evalRows: 4, samples: 0 },
      },
      { observer: { stepped: ({ loss }) => void seen.push(loss) } },
    );
    expect(seen.at(-1)).toBeLessThan(seen[0]! - 0.3);
    const config = JSON.parse(readFileSync(path.join(out, "adapter_config.json"), "utf8")) as object;
    expect(config).toMatchObject({ task_type: "SEQ_2_SEQ_LM", modules_to_save: null, use_dora: dora });
    expect(existsSync(path.join(out, "model.safetensors"))).toBe(false);
    const quantize = adapter === "qlora" ? ["--quantize", "nf4"] : [];
    const write = async (...args: string[]) => {
      const { stdout, stderr, status } = await lineage(
        "transform",
        "der hund rennt",
        "--no-prepared",
        ...args,
      );
      expect(status, stderr).toBe(0);
      return stdout;
    };
    const beside = await write("--model", base, "--adapter", out, ...quantize);
    expect(await write("--model", base, "--adapter", out, "--merge-adapter", ...quantize)).toBe(beside);
    const merged = await lineage(
      ...["merge", "--model", base, "--adapter", out, "--out", `${out}-merged`, "--json", ...quantize],
    );
    expect(merged.status, merged.stderr).toBe(0);
    expect((JSON.parse(merged.stdout) as { meanDivergence: number }).meanDivergence).toBeLessThan(1e-4);
    expect(await kindIn(`${out}-merged`)).toBe("encoder-decoder");
    expect(await write("--model", `${out}-merged`)).toBe(beside);
  });
});

describe("on the command line", () => {
  it("finetune, predict and merge go together", async () => {
    const out = place("cli");
    const trained = await lineage(
      ...["finetune", "--model", place("bert"), "--task", "classify", "--data", await data(), "--out", out],
      ...["--adapter", "lora", "--rank", "4", "--epochs", "4", "--batch", "8", "--learning-rate", "1e-2"],
    );
    expect(trained.status, trained.stderr).toBe(0);
    expect(trained.stdout + trained.stderr).toContain("the head learns whole");
    expect(trained.stdout + trained.stderr).toContain(
      `lineage predict --model ${place("bert")} --adapter ${out}`,
    );
    const labels = async (...args: string[]) => {
      const { stdout, stderr, status } = await lineage("predict", ...args, "--json", ...texts);
      expect(status, stderr).toBe(0);
      return stdout
        .trim()
        .split("\n")
        .map((line) => (JSON.parse(line) as { label: string }).label);
    };
    const both = ["--model", place("bert"), "--adapter", out];
    expect(await labels(...both)).toEqual(["bad", "good"]);
    const merged = await lineage("merge", ...both, "--out", place("cli-merged"), "--json");
    expect(merged.status, merged.stderr).toBe(0);
    const comparison = JSON.parse(merged.stdout) as { relativeError: number; answers: object };
    expect(comparison.relativeError).toBeLessThan(1e-5);
    expect(await labels("--model", place("cli-merged"))).toEqual(["bad", "good"]);
    const config = JSON.parse(
      await readFile(path.join(place("cli-merged"), "config.json"), "utf8"),
    ) as object;
    expect(config).toMatchObject({ id2label: { "0": "bad", "1": "good" } });
    const wrong = await lineage(
      ...["finetune", "--model", place("bert"), "--task", "classify", "--data", await data()],
      ...["--adapter", "prompt", "--out", place("never")],
    );
    expect(wrong.status).toBe(1);
    expect(wrong.stderr).toContain("--adapter prompt is for decoders that write");
    const forgotten = await lineage(
      ...["finetune", "--model", place("bert"), "--task", "classify", "--data", await data()],
      ...["--lora-targets", "query", "--out", place("never")],
    );
    expect(forgotten.stderr).toContain("--lora-targets is for an adapter, and here all weights learn");
  });
});
