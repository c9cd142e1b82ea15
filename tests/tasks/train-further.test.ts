import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadModel } from "../../src/checkpoints/index.js";
import { stories } from "../../src/data/index.js";
import { Decoder, gapPrompt, infillText } from "../../src/generation/index.js";
import { load } from "../../src/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { resumeTraining, train, trainAdapter, trainFurther } from "../../src/tasks/index.js";
import { sentinelsOf } from "../../src/tokenizers/index.js";

const runtime = createRuntime();
const root = await mkdtemp(path.join(os.tmpdir(), "train-further-"));
afterAll(() => rm(root, { recursive: true, force: true }));
const place = (name: string) => path.join(root, name);
const small = { batch: 4, evalEvery: 4, vocabSize: 400 };
const sizes = { contextLength: 32, hiddenSize: 32, numLayers: 1, numHeads: 2 };
const rows = { contextLength: 32 };

beforeAll(async () => {
  await writeFile(place("text.txt"), [...stories({ seed: 2, count: 60 })].join("\n\n"));
  await train({ ...small, system: "palm", data: place("text.txt"), sizes, steps: 8, out: place("causal") });
});

describe("a causal model that goes on under UL2R", () => {
  const out = place("ul2r");
  beforeAll(async () => {
    const request = {
      ...small,
      base: place("causal"),
      objective: "ul2r",
      data: place("text.txt"),
      sizes: rows,
    };
    await trainFurther({ ...request, steps: 8, out });
  });

  it("becomes a prefix language model with sentinels and modes", async () => {
    const before = await loadModel(runtime, place("causal"), { kind: "decoder" });
    const after = await loadModel(runtime, out, { kind: "decoder" });
    expect(after.model.config.prefixLm).toBe(true);
    expect(sentinelsOf(after.tokenizer).length).toBeGreaterThan(2);
    expect(after.tokenizer.promptId).toBe(after.tokenizer.tokenToId("[S2S]"));
    expect(after.model.config.vocabSize).toBe(after.tokenizer.vocabSize);
    for (const { weights } of [before, after]) weights.dispose();
    const text = "Once upon a time";
    expect(after.tokenizer.encode(text)).toEqual(before.tokenizer.encode(text));
    const metrics = (await readFile(path.join(out, "metrics.jsonl"), "utf8")).trim().split("\n");
    expect(metrics.length).toBeGreaterThan(0);
  });

  it("has the losses of a run that was never stopped", async () => {
    const stopped = place("stopped");
    const request = {
      ...small,
      base: place("causal"),
      objective: "ul2r",
      data: place("text.txt"),
      sizes: rows,
    };
    const control = new AbortController();
    await trainFurther(
      { ...request, steps: 8, out: stopped },
      {
        signal: control.signal,
        observer: {
          stepped: ({ step }) => {
            if (step === 3) control.abort();
          },
        },
      },
    );
    const result = await resumeTraining(stopped);
    expect(result.outcome).toBe("finished");
    const read = async (folder: string) => {
      const { weights } = await loadModel(runtime, folder, { kind: "decoder" });
      using kept = weights;
      return kept.get("model.embed_tokens.weight").view().slice();
    };
    expect(await read(stopped)).toEqual(await read(out));
  });

  it("fills gaps, from TypeScript", async () => {
    using model = await load(out, { kind: "decoder" });
    const { text, gaps } = await model.infill("Once upon <gap> time. The <gap>.", {
      maxGapTokens: 4,
      temperature: 0,
    });
    expect(gaps).toHaveLength(2);
    expect(text).toBe(`Once upon${gaps[0]!} time. The${gaps[1]!}.`);
    for (const gap of gaps) expect(gap).toMatch(/^\s/);
    await expect(model.infill("no gap")).rejects.toThrow("the text has no gap");
    await expect(model.infill("<gap> ".repeat(200))).rejects.toThrow("200 gaps");
    await expect(model.infill("a <extra_id_0> b <gap>")).rejects.toThrow("names a sentinel");
  });

  it("writes each gap by what its sentinels allow, and reads the whole text first", async () => {
    const loaded = await loadModel(runtime, out, { kind: "decoder" });
    using weights = loaded.weights;
    using decoder = await Decoder.create({ ...loaded, weights, capacity: 32 });
    const writer = { decoder, tokenizer: loaded.tokenizer };
    const asked = gapPrompt(loaded.tokenizer, "Once <gap> the end", { maxGapTokens: 5 });
    const [first] = sentinelsOf(loaded.tokenizer);
    expect(asked.ids[0]).toBe(loaded.tokenizer.tokenToId("[NLU]"));
    expect(asked.ids.filter((id) => id === first)).toHaveLength(1);
    expect(asked.maxNewTokens).toBe(6);
    for (let seed = 0; seed < 5; seed++) {
      const { gaps } = await infillText(writer, "Once <gap> the <gap>", {
        maxGapTokens: 3,
        temperature: 2,
        seed,
      });
      expect(gaps).toHaveLength(2);
      for (const gap of gaps) {
        expect(gap.trim().length + gap.length).toBeGreaterThan(0);
        expect(gap).not.toMatch(/<extra_id|\[NL|\[S2S/);
      }
    }
    await expect(infillText(writer, `${"word ".repeat(40)}<gap>`)).rejects.toThrow(
      "leaves no room for its gaps",
    );
  });
});

describe("objectives of a model from nothing", () => {
  it("teach what stands in a gap, from both of its sides", { timeout: 120_000 }, async () => {
    // What is hidden follows from its neighbours alone: letters in their order, over and over.
    const letters = "abcdefghijklmnopqrstuvwxyz";
    await writeFile(place("letters.txt"), letters.repeat(400));
    const out = place("letters");
    await train({
      system: "palm",
      data: place("letters.txt"),
      tokenizer: "characters",
      objective: "spans",
      sizes: { contextLength: 32, hiddenSize: 48, numLayers: 2, numHeads: 2 },
      batch: 16,
      steps: 900,
      evalEvery: 900,
      learningRate: 3e-3,
      out,
    });
    using model = await load(out, { kind: "decoder" });
    // As long as the rows that were learned from.
    const { gaps } = await model.infill("defghij<gap>opqrstuvwxyzabcdef", { temperature: 0 });
    expect(gaps).toEqual(["klmn"]);
  });

  it("mix languages and denoisers, and mark documents", async () => {
    const documents = [...stories({ seed: 5, count: 60 })].map((text, index) => ({
      text,
      tone: index % 2 === 0 ? "calm" : "wild",
    }));
    const jsonl = (rows: readonly object[]) => rows.map((row) => JSON.stringify(row)).join("\n");
    await writeFile(place("a.jsonl"), jsonl(documents.slice(0, 40)));
    await writeFile(place("b.jsonl"), jsonl(documents.slice(40)));
    const said: string[] = [];
    const out = place("mixed");
    await train(
      {
        ...small,
        system: "llama",
        data: [`aa=${place("a.jsonl")}`, `bb=${place("b.jsonl")}`],
        exponent: 0,
        controlColumn: "tone",
        controlRate: 0.5,
        objective: "causal=0.5,prefix=0.25,spans=0.25",
        sizes,
        steps: 2,
        out,
      },
      { onMessage: (message) => said.push(message) },
    );
    expect(said.join("\n")).toContain("rows in aa 50%, bb 50%");
    using model = await load(out, { kind: "decoder" });
    const write = async (control: string[]) => {
      const written = model.generate("Once", { control, maxNewTokens: 3, temperature: 0 });
      let next = await written.next();
      while (!next.done) next = await written.next();
      return next.value.promptTokens;
    };
    expect(await write(["tone=calm"])).toBe((await write([])) + 1);
    await expect(write(["tone=loud"])).rejects.toThrow("it has tone=calm, tone=wild");
    // No mode was learned, and none is put before prompts.
    const { tokenizer, weights } = await loadModel(runtime, out, { kind: "decoder" });
    weights.dispose();
    expect(tokenizer.promptId).toBeUndefined();
  });

  it.each([
    [{ objective: "ul3" }, "the objective"],
    [{ objective: "prefix", packing: "documents" as const }, "is one document"],
    [{ data: ["x.txt", "y.txt"] }, "names no language"],
    [{ data: ["en=x.txt", "en=y.txt"] }, "names the language en twice"],
  ])("are refused in plain words: %j", async (more, message) => {
    const request = { ...small, system: "palm" as const, data: place("text.txt"), sizes, steps: 1 };
    await expect(train({ ...request, ...more, out: place("refused") })).rejects.toThrow(message);
  });

  it("are refused of systems that read from left to right alone, and of adapters on causal models", async () => {
    const data = place("text.txt");
    await expect(
      train({ ...small, system: "gpt3", data, objective: "prefix", sizes, steps: 1, out: place("refused") }),
    ).rejects.toThrow("GPT-3 reads from left to right alone");
    await expect(
      trainAdapter({
        ...small,
        base: place("causal"),
        adapter: "lora",
        objective: "prefix",
        data,
        sizes: rows,
        steps: 1,
        out: place("refused"),
      }),
    ).rejects.toThrow("train all of it with --adapter none");
    using model = await load(place("causal"), { kind: "decoder" });
    await expect(model.infill("a <gap>")).rejects.toThrow("never learned to fill them");
  });
});
