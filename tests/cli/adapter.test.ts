import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { saveAdapter, saveModel } from "../../src/checkpoints/index.js";
import { Llama, llamaConfig, systems } from "../../src/models/index.js";
import { Weights, addLora } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { trainAdapter } from "../../src/tasks/index.js";
import { trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { load } from "../../src/library/index.js";
import { lineage, spawned } from "../support/cli.js";

const runtime = createRuntime();
const root = mkdtempSync(path.join(os.tmpdir(), "lineage-adapter-"));
const folder = (name: string): string => path.join(root, name);
afterAll(() => {
  rmSync(root, { recursive: true });
});

const tokenizer = trainByteLevelBpe(["the cat sat on the mat"], { vocabSize: 270 });
const sizes = { contextLength: 64, numLayers: 2, numHeads: 2, vocabSize: tokenizer.vocabSize };

/** A base and an adapter of random numbers for it. */
async function make(name: string, hiddenSize: number): Promise<void> {
  const model = new Llama(llamaConfig({ ...sizes, hiddenSize }));
  using base = Weights.initialize(runtime, model, 1);
  mkdirSync(folder(name));
  await saveModel(folder(name), { system: systems.llama, model, weights: base, tokenizer });
  const adapter = addLora(model, { rank: 4, alpha: 8, targets: "all-linear" });
  using weights = Weights.partlyFrozen(model, base, 2);
  for (const tensor of Object.values(weights.tensors))
    tensor.view().forEach((_, i, view) => (view[i] = 0.3 * Math.sin(5 * i + view.length)));
  await saveAdapter(folder(`${name}-adapter`), { model, adapter, weights, base: name });
}

beforeAll(async () => {
  await make("base", 64);
  await make("other", 32);
});

async function written(...args: string[]): Promise<string> {
  const { stdout, stderr } = await lineage(
    ...[
      "generate",
      "--prompt",
      "the cat",
      "--max-new-tokens",
      "12",
      "--temperature",
      "0",
      "--json",
      "--no-prepared",
    ],
    ...args,
  );
  expect(stderr).toBe("");
  return (JSON.parse(stdout) as { text: string }).text;
}

describe("an adapter on the command line", () => {
  it("is measured by evaluate, beside the matrices as merged into them", async () => {
    const text = folder("text.txt");
    writeFileSync(text, "the cat sat on the mat, and the mat sat on the cat");
    const loss = async (...args: string[]): Promise<number> => {
      const common = ["evaluate", "--model", folder("base"), "--text", text, "--json", "--no-prepared"];
      const { stdout, stderr, status } = await lineage(...common, ...args);
      expect(status, stderr).toBe(0);
      return (JSON.parse(stdout) as { results: { scores: { loss: { value: number } } }[] }).results[0]!.scores
        .loss.value;
    };
    const adapter = ["--adapter", folder("base-adapter")];
    const beside = await loss(...adapter);
    expect(Math.abs(beside - (await loss(...adapter, "--merge-adapter")))).toBeLessThan(1e-3);
    expect(Math.abs(beside - (await loss()))).toBeGreaterThan(0.05);
  });

  it("writes the same text beside its base, merged while loading, and merged into a folder", async () => {
    const both = ["--model", folder("base"), "--adapter", folder("base-adapter")];
    const text = await written(...both);
    expect(text).not.toBe(await written("--model", folder("base")));
    expect(await written(...both, "--merge-adapter")).toBe(text);
    const merged = await lineage("merge", ...both, "--out", folder("merged"), "--json");
    expect(merged.stderr).toBe("");
    const result = JSON.parse(merged.stdout) as { tokens: number; meanDivergence: number; sameFirst: number };
    expect(result.tokens).toBe(64);
    expect(result.meanDivergence).toBeLessThan(1e-6);
    expect(result.sameFirst).toBe(64);
    expect(await written("--model", folder("merged"))).toBe(text);
  });

  it("is converted to a GGUF and back, beside its base, and writes the same text", async () => {
    const text = await written("--model", folder("base"), "--adapter", folder("base-adapter"));
    const base = ["--base", folder("base")];
    const gguf = `${folder("base-adapter")}.gguf`;
    const there = await lineage("convert", folder("base-adapter"), gguf, ...base, "--json");
    expect(there.stderr).toBe("");
    expect((JSON.parse(there.stdout) as { meanDivergence: number }).meanDivergence).toBeLessThan(1e-9);
    expect(await written("--model", folder("base"), "--adapter", gguf)).toBe(text);
    const back = await lineage("convert", gguf, folder("back"), ...base);
    expect(back.stderr).toBe("");
    expect(back.stdout).toContain("same most probable token after 64 of 64");
    expect(await written("--model", folder("base"), "--adapter", folder("back"))).toBe(text);
    const { stdout: shown } = await lineage("inspect", folder("back"), "--json");
    expect(JSON.parse(shown)).toMatchObject({ kind: "an adapter in peft's layout" });
    // The base may itself be a GGUF, and the adapter be merged.
    const whole = `${folder("base")}.gguf`;
    expect((await lineage("convert", folder("base"), whole, "--format", "F32")).status).toBe(0);
    expect(await written("--model", whole, "--adapter", gguf)).toBe(text);
    expect(await written("--model", whole, "--adapter", gguf, "--merge-adapter")).toBe(text);
    const failing = async (...args: string[]) => (await lineage(...args)).stderr;
    expect(await failing("convert", gguf, folder("no"))).toContain("name it: --base MODEL");
    expect(await failing("convert", gguf, `${folder("no")}.onnx`, ...base)).toContain("merge it to export");
    expect(await failing("convert", whole, folder("no"), ...base)).toContain("holds no adapter");
    expect(await failing("generate", "--model", gguf, "--prompt", "a")).toContain("holds an adapter");
    expect(
      await failing("generate", "--model", folder("base"), "--adapter", whole, "--prompt", "a"),
    ).toContain("it holds a model, and an adapter is needed here");
    expect(
      await failing("generate", "--model", folder("other"), "--adapter", gguf, "--prompt", "a"),
    ).toContain("the adapter was made for another base");
  });

  it("is merged into the base's NF4, dequantised, as it was computed beside it", async () => {
    const both = ["--model", folder("base"), "--adapter", folder("base-adapter"), "--quantize", "nf4"];
    const { stdout, stderr } = await lineage("merge", ...both, "--out", folder("merged-nf4"), "--json");
    expect(stderr).toBe("");
    expect((JSON.parse(stdout) as { meanDivergence: number }).meanDivergence).toBeLessThan(1e-4);
    const config = readFileSync(path.join(folder("merged-nf4"), "config.json"), "utf8");
    expect(config).not.toContain("quantization_config");
    expect(await written("--model", folder("merged-nf4"))).toBe(await written(...both));
  });

  it.each(["lora", "qlora"])(
    "trains a %s that continues as if never stopped, and writes with it",
    async (kind) => {
      const data = folder("text.txt");
      writeFileSync(data, "the cat sat on the mat and the mat sat on the cat\n".repeat(300));
      const run = async (name: string, ...more: string[]) => {
        const made = await lineage(
          ...[
            "train",
            "--base",
            folder("base"),
            "--adapter",
            kind,
            "--data",
            data,
            "--out",
            folder(name),
            "--json",
          ],
          ...["--rank", "4", "--alpha", "8", "--context", "16", "--batch", "4", "--eval-every", "10"],
          ...["--learning-rate", "1e-2", "--lora-dropout", "0.1", ...more],
        );
        expect(made.status, made.stderr).toBe(0);
        return made;
      };
      const whole = `${kind}-whole`;
      await run(whole, "--steps", "20");
      const losses = async (name: string) =>
        readFileSync(path.join(folder(name), "metrics.jsonl"), "utf8")
          .trim()
          .split("\n")
          .map((line) => JSON.parse(line) as { step: number; loss?: number })
          .flatMap(({ step, loss }) => (loss === undefined ? [] : [`${step} ${loss}`]));
      // The same run, whose state is that of its tenth step when it goes on.
      const again = `${kind}-again`;
      const controller = new AbortController();
      const request = {
        base: folder("base"),
        adapter: kind as "lora" | "qlora",
        data,
        out: folder(again),
        rank: 4,
        alpha: 8,
        loraDropout: 0.1,
        sizes: { contextLength: 16 },
        batch: 4,
        evalEvery: 10,
        steps: 20,
        learningRate: 1e-2,
      };
      const stopped = await trainAdapter(request, {
        signal: controller.signal,
        observer: {
          stepped: ({ step }) => {
            if (step === 10) controller.abort();
          },
        },
      });
      expect(stopped.outcome).toBe("interrupted");
      expect((await lineage("train", "--resume", "--out", folder(again))).status).toBe(0);
      expect(await losses(again)).toEqual(await losses(whole));
      const files = (name: string) => readFileSync(path.join(folder(name), "adapter_model.safetensors"));
      expect(files(again).equals(files(whole))).toBe(true);
      const options = JSON.parse(readFileSync(path.join(folder(whole), "run.json"), "utf8")) as object;
      expect(options).toMatchObject({ system: "llama", base: folder("base") });
      expect(existsSync(path.join(folder(whole), "model.safetensors"))).toBe(false);
      const first = Number((await losses(whole))[0]!.split(" ")[1]);
      expect(Number((await losses(whole)).at(-1)!.split(" ")[1])).toBeLessThan(first - 0.5);
      const text = await written("--model", folder("base"), "--adapter", folder(whole));
      expect(text).not.toBe(await written("--model", folder("base")));
    },
  );

  it.each(["prompt", "prefix"])("trains a %s that stands before what is written", async (kind) => {
    const data = folder("text.txt");
    writeFileSync(data, "the cat sat on the mat\n".repeat(300));
    const out = folder(kind);
    const made = await lineage(
      ...["train", "--base", folder("base"), "--adapter", kind, "--data", data, "--out", out],
      ...["--virtual-tokens", "4", "--prompt-init", "the cat", "--context", "16", "--batch", "4"],
      ...["--steps", "30", "--eval-every", "10", "--learning-rate", "0.1"],
    );
    expect(made.status, made.stderr).toBe(0);
    expect(made.stderr).toContain(`a ${kind === "prompt" ? "soft prompt" : "prefix"} of 4 tokens`);
    const losses = readFileSync(path.join(out, "metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .flatMap((line) => (JSON.parse(line) as { loss?: number }).loss ?? []);
    expect(losses.at(-1)).toBeLessThan(losses[0]! - 0.1);
    const text = await written("--model", folder("base"), "--adapter", out);
    expect(text).not.toBe(await written("--model", folder("base")));
    const merged = await lineage(
      ...["merge", "--model", folder("base"), "--adapter", out, "--out", folder("never")],
    );
    expect(merged.status).toBe(1);
    expect(merged.stderr).toContain("no matrices to merge");
    const failing = await lineage(
      ...["train", "--base", folder("base"), "--adapter", "lora", "--data", data, "--out", folder("no")],
      ...["--prompt-init", "the cat"],
    );
    expect(failing.stderr).toContain("does not begin as a text");
  });

  it("refuses options that fit no adapter, and targets that match nothing", async () => {
    const data = folder("text.txt");
    writeFileSync(data, "the cat sat on the mat\n".repeat(300));
    const failing = async (...args: string[]) =>
      (await lineage("train", "--data", data, "--out", folder("failing"), ...args)).stderr;
    const base = ["--base", folder("base")];
    expect(await failing("--rank", "4")).toContain(
      "--rank is for an adapter of a model: name it with --base",
    );
    expect(await failing(...base, "--hidden", "4")).toContain("an adapter has no --hidden");
    expect(await failing(...base, "--tokenizer", "characters")).toContain("has its own tokenizer");
    expect(await failing(...base, "--lora-targets", "c_attn")).toMatch(
      /c_attn matches no linear layer.*q_proj/,
    );
  });

  it("refuses an adapter for another base, and a merge without an adapter", async () => {
    const wrong = await lineage(
      "generate",
      "--model",
      folder("base"),
      "--adapter",
      folder("other-adapter"),
      "--prompt",
      "a",
    );
    expect(wrong.stderr).toMatch(
      /q_proj\.lora_A\.weight is \[4, 32\], but this model wants \[4, 64\]: the adapter was made for another base/,
    );
    const none = await lineage("generate", "--model", folder("base"), "--merge-adapter", "--prompt", "a");
    expect(none.stderr).toContain("there is no adapter to merge: name its folder");
  });
});

describe("several adapters on the command line", () => {
  const named = (...names: string[]): string[] =>
    names.flatMap((name) => [
      "--adapter",
      `${name}=${folder(name === "first" ? "base-adapter" : "second-adapter")}`,
    ]);

  beforeAll(async () => {
    const model = new Llama(llamaConfig({ ...sizes, hiddenSize: 64 }));
    using base = Weights.initialize(runtime, model, 1);
    const adapter = addLora(model, { rank: 2, alpha: 8, targets: ["q_proj", "down_proj"] });
    using weights = Weights.partlyFrozen(model, base, 2);
    for (const tensor of Object.values(weights.tensors))
      tensor.view().forEach((_, i, view) => (view[i] = 0.5 * Math.cos(3 * i + view.length)));
    await saveAdapter(folder("second-adapter"), { model, adapter, weights, base: "base" });
  });

  const usual = ["--model", folder("base"), "--no-prepared", "--temperature", "0", "--max-new-tokens", "12"];

  it("write a text each, the same as alone", async () => {
    const { stdout, stderr } = await lineage(
      ...["generate", "--prompt", "the cat", "--json", ...usual, ...named("first", "second")],
    );
    expect(stderr).toBe("");
    const texts = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { adapter: string; text: string });
    expect(texts.map(({ adapter }) => adapter)).toEqual(["first", "second"]);
    const model = ["--model", folder("base")];
    expect(texts.map(({ text }) => text)).toEqual([
      await written(...model, "--adapter", folder("base-adapter")),
      await written(...model, "--adapter", folder("second-adapter")),
    ]);
    expect(texts[0]!.text).not.toBe(texts[1]!.text);
  });

  it("are loaded once in TypeScript, and each text names its own", async () => {
    using model = await load(folder("base"), {
      ...{ runtime, kind: "decoder", slots: 3 },
      adapters: { first: folder("base-adapter"), second: folder("second-adapter") },
    });
    expect(model.adapters).toEqual(["first", "second"]);
    const text = async (adapter?: string): Promise<string> => {
      let all = "";
      for await (const piece of model.generate("the cat", { temperature: 0, maxNewTokens: 12, adapter }))
        all += piece;
      return all;
    };
    const alone = (...more: string[]) => written("--model", folder("base"), ...more);
    expect(await Promise.all([text("first"), text(), text("second")])).toEqual([
      await alone("--adapter", folder("base-adapter")),
      await alone(),
      await alone("--adapter", folder("second-adapter")),
    ]);
    await expect(text("third")).rejects.toThrow(/there is no adapter third; loaded are first, second/);
    await expect(
      load(folder("base"), {
        runtime,
        adapter: folder("base-adapter"),
        adapters: { a: folder("second-adapter") },
      }),
    ).rejects.toThrow(/give one adapter, or several by name/);
  });

  it("answer in turn in a chat", async () => {
    writeFileSync(
      folder("template.jinja"),
      "{% for message in messages %}{{ message.content }} {% endfor %}",
    );
    const talk = (lines: readonly string[], ...more: string[]) => {
      const { stdout, stderr } = spawned(
        ["chat", "--json", "--template", folder("template.jinja"), "--context", "60", ...usual, ...more],
        { input: `${lines.join("\n")}\n` },
      );
      const answers = stdout
        .trim()
        .split("\n")
        .map((line) => (JSON.parse(line) as { content: string }).content);
      return { answers, stderr };
    };
    const said = talk(
      [
        "the cat",
        "/reset",
        "/adapter",
        "/adapter second",
        "the cat",
        "/reset",
        "/adapter none",
        "the cat",
        "/adapter third",
      ],
      ...named("first", "second"),
    );
    expect(said.answers).toEqual(
      [["--adapter", folder("base-adapter")], ["--adapter", folder("second-adapter")], []].map(
        (more) => talk(["the cat"], ...more).answers[0],
      ),
    );
    expect(said.stderr).toMatch(/none\nfirst \(answers\)\nsecond\n/);
    expect(said.stderr).toContain(
      "there is no adapter third; there are first, second, and none for the base",
    );
  });

  it("are refused where their names or what is done with them do not fit", async () => {
    const failing = async (...args: string[]): Promise<string> =>
      (await lineage("generate", "--prompt", "a", "--model", folder("base"), ...args)).stderr;
    expect(await failing(...named("first", "first"))).toContain("two adapters are called first");
    expect(await failing(...named("first", "second"), "--merge-adapter")).toContain("give one --adapter");
    const two = await lineage(
      ...["evaluate", "--model", folder("base"), "--text", folder("template.jinja")],
      ...["--adapter", "first", "--adapter", "second"],
    );
    expect(two.stderr).toContain("this command takes one adapter, not first and second");
    expect(await failing("--adapter", "=x")).toContain("--adapter must be FOLDER or NAME=FOLDER, not =x");
    expect(await failing("--adapter", `none=${folder("base-adapter")}`)).toContain(
      "none is the base without",
    );
    expect(await failing(...named("first"), "--adapter", `other=${folder("other-adapter")}`)).toMatch(
      /the adapter was made for another base/,
    );
  });
});
