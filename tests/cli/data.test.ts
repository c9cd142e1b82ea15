import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { saveModel } from "../../src/checkpoints/index.js";
import { Llama, llamaConfig, systems } from "../../src/models/index.js";
import { Weights, namedParameters } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { growInstructions, resumeGrowing } from "../../src/tasks/index.js";
import { trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { lineage } from "../support/cli.js";

const root = mkdtempSync(path.join(os.tmpdir(), "lineage-data-"));
const at = (name: string): string => path.join(root, name);
afterAll(() => {
  rmSync(root, { recursive: true });
});

beforeAll(async () => {
  const tokenizer = trainByteLevelBpe(["say red or blue"], { vocabSize: 270 });
  const sizes = { contextLength: 64, hiddenSize: 32, numLayers: 1, numHeads: 2 };
  const model = new Llama(llamaConfig({ ...sizes, vocabSize: tokenizer.vocabSize }));
  using weights = Weights.initialize(createRuntime(), model, 1);
  await saveModel(at("model"), { system: systems.llama, model, weights, tokenizer });
  const talk = (answer: string) => ({
    messages: [
      { role: "user", content: "say <b>red</b>" },
      { role: "assistant", content: answer },
    ],
  });
  const rows = [talk("red"), talk(""), talk("red ".repeat(60)), { messages: [{ content: "x" }] }];
  writeFileSync(at("chats.jsonl"), rows.map((row) => JSON.stringify(row)).join("\n"));
});

describe("lineage data show", () => {
  it("shows what is trained, what is cut, what cannot be learned, and all lengths, without colours in a pipe", async () => {
    const { stdout, status } = await lineage(
      ...["data", "show", at("chats.jsonl"), "--model", at("model"), "--html", at("page.html")],
    );
    expect(status).toBe(0);
    expect(stdout).not.toContain("\u001b");
    expect(stdout).toContain(
      "<|im_start|>user\nsay <b>red</b><|im_end|>\n<|im_start|>assistant\n⟦red<|im_end|>⟧\n",
    );
    expect(stdout).toMatch(/row 2 has an empty answer in message 2\n {2}row 4 has no role in message 1/);
    expect(stdout).toMatch(/2 conversations, .*row 3 is longer than 64 tokens: \d+ tokens cut off/);
    expect(stdout).toMatch(/ChatML is written into its tokenizer/);
    expect(stdout).toMatch(/conversations by tokens:\n(.*\n)*.*█+ 1\n/);
    const page = readFileSync(at("page.html"), "utf8");
    expect(page).toContain(
      '<span class="trained">red</span><span class="trained special">&#60;|im_end|&#62;</span>',
    );
    expect(page).not.toContain("<b>");
  });

  it("gives programs each row in pieces that add up to its text, and the counts", async () => {
    const { stdout } = await lineage(
      ...["data", "show", at("chats.jsonl"), "--model", at("model"), "--json", "--long", "skip"],
    );
    const [row, all] = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    const pieces = row!["pieces"] as { text: string; trained: boolean }[];
    expect(pieces.map(({ text }) => text).join("")).toBe(
      "<|im_start|>user\nsay <b>red</b><|im_end|>\n<|im_start|>assistant\nred<|im_end|>\n",
    );
    expect(pieces.filter(({ trained }) => trained).map(({ text }) => text)).toEqual(["red", "<|im_end|>"]);
    expect(all).toMatchObject({ format: "messages", conversations: 1, dropped: [3], long: [3] });
    expect((all!["bad"] as { number: number }[]).map(({ number }) => number)).toEqual([2, 4]);
  });
});

describe("lineage data show of answers that were judged", () => {
  it("shows every answer of a row, says which it is, and what learns from it", async () => {
    const asked = [{ role: "user", content: "say red" }];
    const files: Record<string, [row: object, names: string[]]> = {
      "pairs.jsonl": [{ prompt: asked, chosen: "red", rejected: "blue" }, ["chosen", "rejected"]],
      "ranks.jsonl": [
        { prompt: "say red", answers: ["a", "b", "c"], rank: [2, 1, 2] },
        ["rank 1", "rank 2", "rank 2"],
      ],
      "thumbs.jsonl": [{ prompt: "say red", completion: "blue", label: false }, ["bad"]],
    };
    for (const [file, [row, names]] of Object.entries(files)) {
      writeFileSync(at(file), JSON.stringify(row));
      const { stdout } = await lineage("data", "show", at(file), "--model", at("model"));
      expect(Array.from(stdout.matchAll(/^row 1, (.*): \d+ tokens/gm), ([, name]) => name)).toEqual(names);
      expect(stdout).toMatch(/align looks at every answer/);
    }
    const { stdout } = await lineage("data", "show", at("pairs.jsonl"), "--model", at("model"));
    expect(stdout).toMatch(/⟦red<\|im_end\|>⟧\n(.*\n)*.*⟦blue<\|im_end\|>⟧/);
  });
});

/**
 * A model that writes each byte by the one before it alone: words of a, b, c and d, and "yes" after a question mark. Its layers
 * add nothing; embeddings are unit vectors, and the head holds what follows on each.
 */
async function writeTalker(folder: string): Promise<void> {
  const tokenizer = trainByteLevelBpe(["a"], { vocabSize: 258 });
  const hiddenSize = 320;
  const model = new Llama(
    llamaConfig({
      ...{ contextLength: 1024, hiddenSize, numLayers: 1, numHeads: 2, intermediateSize: 8 },
      ...{ vocabSize: tokenizer.vocabSize, tieEmbeddings: false },
    }),
  );
  using weights = Weights.initialize(createRuntime(), model, 1);
  const values = (name: string) => weights.get(name).view() as Float32Array;
  for (const name of namedParameters(model).keys()) if (!/norm/.test(name)) values(name).fill(0);
  const id = (text: string) => tokenizer.encode(text, { parseSpecial: false }).at(-1)!;
  const follow = (before: string, after: string) => {
    for (const next of after)
      values("lm_head.weight")[id(next) * hiddenSize + id(before)] = 40 / Math.sqrt(hiddenSize);
  };
  for (let token = 0; token < tokenizer.vocabSize; token++)
    values("model.embed_tokens.weight")[token * hiddenSize + token] = 1;
  for (const [before, after] of [":  ", "?y", "ye", "es", "s\n"].map((pair) => [pair[0]!, pair.slice(1)]))
    follow(before!, after!);
  follow(" ", "abcd");
  for (const letter of "abcd") follow(letter, "abcd  ");
  await saveModel(folder, { system: systems.llama, model, weights, tokenizer });
}

describe("lineage data grow", () => {
  const seeds = Array.from({ length: 8 }, (_, index) => ({
    instruction: `say ${index}`,
    instances: [{ input: "", output: "red" }],
    is_classification: index % 2 === 0,
  }));

  it("says what became of what the model wrote, and refuses what are no tasks", async () => {
    writeFileSync(at("seeds.jsonl"), seeds.map((row) => JSON.stringify(row)).join("\n"));
    const grow = (file: string) =>
      lineage(
        "data",
        "grow",
        at(file),
        "--model",
        at("model"),
        "--attempts",
        "2",
        "--out",
        at("grown.jsonl"),
      );
    const { stderr, status } = await grow("seeds.jsonl");
    expect(status).toBe(0);
    // A model of random numbers writes no sentence.
    expect(stderr).toMatch(
      /no task was kept; left out: \d too like another, \d unfit, \d without an instance/,
    );
    // The run is there now, and begins anew under another name alone.
    expect((await grow("seeds.jsonl")).stderr).toContain("already holds a run; continue it with --resume");
    rmSync(at("grown.run.json"));
    expect(await grow("chats.jsonl")).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/row 1: .*instruction/),
    });
    writeFileSync(at("few.jsonl"), JSON.stringify(seeds[0]));
    expect((await grow("few.jsonl")).stderr).toMatch(/self-instruct needs 6 tasks to show, not 1/);
    expect((await lineage("data", "grow", "--model", at("model"))).stderr).toContain(
      "needs a file of seed tasks",
    );
    expect((await lineage("data", "grow", at("seeds.jsonl"))).stderr).toContain("needs --model");
  });

  it("goes on after a stop to the same tasks", async () => {
    const folder = at("talks");
    await writeTalker(folder);
    const request = { model: folder, seeds: at("seeds.jsonl"), similarity: 1, count: 4, attempts: 40 };
    const whole = await growInstructions({ ...request, out: at("whole.jsonl") });
    expect(whole).toMatchObject({ outcome: "finished" });
    expect(whole.tasks).toHaveLength(4);
    const stop = new AbortController();
    const stopped = await growInstructions(
      { ...request, out: at("parts.jsonl") },
      { signal: stop.signal, onTask: (_, { tasks }) => void (tasks.length === 2 && stop.abort()) },
    );
    expect(stopped).toMatchObject({ outcome: "interrupted", counts: { kept: 2 } });
    // A row that a process which was killed had begun is none.
    appendFileSync(at("parts.jsonl"), '{"instruction": "half');
    const { status, stderr } = await lineage("data", "grow", "--resume", "--out", at("parts.jsonl"));
    expect([status, stderr]).toEqual([0, expect.stringContaining("wrote 4 tasks")]);
    expect(readFileSync(at("parts.jsonl"), "utf8")).toBe(readFileSync(at("whole.jsonl"), "utf8"));
    writeFileSync(
      at("seeds.jsonl"),
      seeds.map((row) => JSON.stringify({ ...row, x: 1, instruction: "say it" })).join("\n"),
    );
    await expect(resumeGrowing(at("parts.jsonl"))).rejects.toThrow("is not what it was when the run began");
    await expect(resumeGrowing(at("none.jsonl"))).rejects.toThrow("nothing to resume");
  });
});
