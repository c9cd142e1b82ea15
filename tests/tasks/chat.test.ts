import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadForInference, saveModel } from "../../src/checkpoints/index.js";
import { Llama, llamaConfig, systems } from "../../src/models/index.js";
import { Weights, rotaryScalingFromHuggingFace } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { type FinetuneChatRequest, finetuneChat, resumeChat } from "../../src/tasks/index.js";
import { ChatTemplate, trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { lineage } from "../support/cli.js";

const runtime = createRuntime();
let folder: string;
const at = (name: string) => path.join(folder, name);
const tokenizer = trainByteLevelBpe(["the red one or the blue one? say red or blue, red red blue "], {
  vocabSize: 290,
});
const model = new Llama(
  llamaConfig({
    vocabSize: tokenizer.vocabSize,
    contextLength: 192,
    hiddenSize: 32,
    numLayers: 2,
    numHeads: 2,
  }),
);

beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-chat-"));
  using weights = Weights.initialize(runtime, model, 1);
  await saveModel(at("base"), { system: systems.llama, model, weights, tokenizer });
  const colours = ["red", "blue"];
  const rows = Array.from({ length: 24 }, (_, i) => ({
    messages: [
      { role: "user", content: `say ${colours[i % 2]!}` },
      { role: "assistant", content: colours[i % 2]! },
    ],
  }));
  await writeFile(at("chats.jsonl"), rows.map((row) => JSON.stringify(row)).join("\n"));
});
afterAll(() => rm(folder, { recursive: true }));

const request = (out: string, more: Partial<FinetuneChatRequest> = {}): FinetuneChatRequest => ({
  model: at("base"),
  data: at("chats.jsonl"),
  out: at(out),
  maxTokens: 384,
  steps: 6,
  evalEvery: 3,
  validation: 0.2,
  learningRate: 1e-2,
  sampleTokens: 4,
  ...more,
});
const losses = async (out: string) =>
  (await readFile(path.join(at(out), "metrics.jsonl"), "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { step: number; loss?: number })
    .flatMap(({ step, loss }) => (loss === undefined ? [] : [[step, loss]]));

describe("fine-tuning on conversations", () => {
  it("learns, and what it wrote answers and stops", async () => {
    const told: string[] = [];
    const result = await finetuneChat(
      request("learned", { adapter: "none", steps: 200, evalEvery: 100, learningRate: 3e-3 }),
      {
        runtime,
        onMessage: (message) => told.push(message),
      },
    );
    expect(result.best).toBeLessThan(0.2);
    expect(told.join("\n")).toMatch(/ChatML is written into its tokenizer, with 2 new tokens/);
    expect(told.join("\n")).toMatch(/written {4}(red|blue)$/m);
    const { stdout } = await lineage(
      ...[
        "generate",
        "--model",
        at("learned"),
        "--temperature",
        "0",
        "--max-new-tokens",
        "6",
        "--no-prepared",
        "--json",
      ],
      ...["--prompt", "<|im_start|>user\nsay blue<|im_end|>\n<|im_start|>assistant\n"],
    );
    expect(JSON.parse(stdout)).toMatchObject({ text: "blue", finish: "stop" });
  });

  it.each(["lora", "qlora", "prompt", "none"] as const)(
    "goes on after a stop to bit-equal losses: %s",
    async (adapter) => {
      await finetuneChat(
        request(`whole-${adapter}`, { adapter, ...(adapter !== "prompt" && { loraDropout: 0.1 }) }),
        { runtime },
      );
      const stop = new AbortController();
      const stopped = await finetuneChat(
        request(`parts-${adapter}`, { adapter, ...(adapter !== "prompt" && { loraDropout: 0.1 }) }),
        {
          runtime,
          signal: stop.signal,
          observer: { stepped: ({ step }) => void (step === 2 && stop.abort()) },
        },
      );
      expect(stopped.outcome).toBe("interrupted");
      const { outcome } = await resumeChat(at(`parts-${adapter}`), { runtime });
      expect(outcome).toBe("finished");
      expect(await losses(`parts-${adapter}`)).toEqual(await losses(`whole-${adapter}`));
    },
  );

  it("runs from the command line, goes on there, and talks", async () => {
    const { stderr, status } = await lineage(
      ...[
        "finetune",
        "--task",
        "chat",
        "--model",
        at("base"),
        "--data",
        at("chats.jsonl"),
        "--out",
        at("cli"),
      ],
      ...["--steps", "2", "--max-tokens", "384", "--rank", "4", "--sample-tokens", "4"],
    );
    expect([status, stderr]).toEqual([0, expect.stringMatching(/24 conversations, read as messages/)]);
    expect(stderr).toContain(`lineage chat --model ${at("base")} --adapter ${at("cli")}`);
    const again = await lineage("finetune", "--resume", "--out", at("cli"));
    expect([again.status, again.stderr]).toEqual([0, expect.stringContaining("done")]);
    const lost = await lineage(
      "finetune",
      "--task",
      "chat",
      "--model",
      at("base"),
      "--data",
      at("none.jsonl"),
    );
    expect([lost.status, lost.stderr]).toEqual([1, expect.stringContaining("none.jsonl")]);
  });

  it.each(["lora", "prompt", "none"] as const)(
    "has room for what scaled positions reach: %s",
    async (adapter) => {
      const config = llamaConfig({
        ...model.config,
        contextLength: 160,
        ropeScaling: rotaryScalingFromHuggingFace(
          { rope_type: "yarn", factor: 2, original_max_position_embeddings: 160 },
          { contextLength: 160 },
        ),
      });
      const yarn = new Llama(config);
      using weights = Weights.initialize(runtime, yarn, 1);
      await saveModel(at("yarn"), { system: systems.llama, model: yarn, weights, tokenizer });
      const turns = [1, 2].map((row) => ({
        messages: [
          { role: "user", content: `say red ${row}` },
          { role: "assistant", content: "r".repeat(140) },
        ],
      }));
      await writeFile(at("long.jsonl"), turns.map((row) => JSON.stringify(row)).join("\n"));
      const told: string[] = [];
      const request = { model: at("yarn"), data: at("long.jsonl"), adapter, steps: 1, virtualTokens: 4 };
      await finetuneChat(
        { ...request, out: at(`yarn-${adapter}`), samples: 1, sampleTokens: 4, validation: 0.5 },
        { runtime, onMessage: (message) => told.push(message) },
      );
      // Beyond the 160 tokens of its own context, and nothing is cut.
      expect(Number(/1 conversations, (\d+) tokens/.exec(told.join("\n"))![1])).toBeGreaterThan(160);
      expect(told.join("\n")).not.toContain("longer than");
      const most = adapter === "prompt" ? 316 : 320;
      await expect(
        finetuneChat({ ...request, maxLength: 330, out: at("yarn-over") }, { runtime }),
      ).rejects.toThrow(`has room for ${most}`);
    },
  );

  it("leaves an adapter whose folder knows how to talk", async () => {
    const loaded = await loadForInference(runtime, at("base"), { adapter: at("whole-lora") });
    const template = new ChatTemplate(loaded.tokenizer);
    // The base has no template and an adapter learns no new tokens: Alpaca's words, and the end of text behind an answer.
    expect(template.render([{ role: "user", content: "Hi" }])).toMatch(
      /### Instruction:\nHi\n\n### Response:\n$/,
    );
    expect(loaded.stopIds).toContain(tokenizer.endOfTextId);
    expect(loaded.tokenizer.vocabSize).toBe(tokenizer.vocabSize);
    loaded.weights.dispose();
  });

  it("tells in one sentence what cannot be trained", async () => {
    const bad = async (more: Partial<FinetuneChatRequest>, reason: RegExp) =>
      expect(finetuneChat(request("bad", more), { runtime })).rejects.toThrow(reason);
    await bad({ maxLength: 500 }, /500 tokens do not fit the model, which has room for 192/);
    await bad({ loraTargets: "nothing" }, /the target nothing matches no linear layer/);
    await bad(
      { long: "refuse", maxLength: 40 },
      /are longer than 40 tokens; choose --long cut, skip or split/,
    );
    await bad({ template: at("none.jinja") }, /none\.jinja/);
    await writeFile(at("drops.jinja"), "{{ messages[-1].content }}{{ eos_token }}");
    await bad({ template: at("drops.jinja") }, /drops message 1 \(user\)/);
    const { stderr, status } = await lineage(
      ...["finetune", "--task", "chat", "--model", at("base"), "--data", at("chats.jsonl"), "--batch", "4"],
    );
    expect([status, stderr]).toEqual([
      1,
      expect.stringContaining("--task chat has no --batch; leave it out"),
    ]);
  });
});
