import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadForInference, loadModel } from "../../src/checkpoints/index.js";
import { type Conversation, encodeAnswers } from "../../src/data/index.js";
import { Chat, Decoder, endOfText } from "../../src/generation/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import {
  type FinetuneChatRequest,
  finetuneChat,
  finetuneText,
  resumeChat,
  showConversations,
  trainText,
} from "../../src/tasks/index.js";
import { ChatTemplate, withChatTemplate } from "../../src/tokenizers/index.js";
import { lineage } from "../support/cli.js";
import { writeTinyBert } from "../support/tiny-encoder.js";

const runtime = createRuntime();
let folder: string;
const at = (name: string) => path.join(folder, name);
const colours = ["red", "blue"];
const words = [
  "say red",
  "say blue",
  "red",
  "blue",
  "User: say red Assistant: red User: and again? Assistant:",
];

beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-readers-"));
  const pairs = words.map((source) => JSON.stringify({ source, target: source }));
  await writeFile(at("words.jsonl"), pairs.join("\n"));
  for (const [system, vocabSize] of [
    ["t5", 150],
    ["bart", 300],
  ] as const)
    await trainText(
      {
        ...{ system, vocabSize, data: at("words.jsonl"), eval: at("words.jsonl"), out: at(system) },
        ...{ sizes: { hiddenSize: 32, numLayers: 2, numHeads: 2, contextLength: 64, dropout: 0 } },
        ...{ steps: 1, evalRows: 0 },
      },
      { runtime },
    );
  const talk = (first: string, second: string) => ({
    messages: [
      { role: "user", content: `say ${first}` },
      { role: "assistant", content: first },
      { role: "user", content: `say ${second}` },
      { role: "assistant", content: second },
    ],
  });
  const rows = Array.from({ length: 24 }, (_, i) => talk(colours[i % 2]!, colours[(i >> 1) % 2]!));
  await writeFile(at("chats.jsonl"), rows.map((row) => JSON.stringify(row)).join("\n"));
});
afterAll(() => rm(folder, { recursive: true }));

const request = (out: string, more: Partial<FinetuneChatRequest> = {}): FinetuneChatRequest => ({
  model: at("t5"),
  data: at("chats.jsonl"),
  out: at(out),
  maxTokens: 384,
  steps: 6,
  evalEvery: 3,
  validation: 0.2,
  learningRate: 1e-2,
  sampleTokens: 8,
  ...more,
});
const losses = async (out: string) =>
  (await readFile(path.join(at(out), "metrics.jsonl"), "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { step: number; loss?: number })
    .flatMap(({ step, loss }) => (loss === undefined ? [] : [[step, loss]]));

describe.each(["t5", "bart"])("fine-tuning %s on conversations", (name) => {
  it("learns, and what it wrote answers in turn and stops", async () => {
    const told: string[] = [];
    const result = await finetuneChat(
      request(`learned-${name}`, {
        ...{ model: at(name), adapter: "none", steps: 160, evalEvery: 80, learningRate: 5e-3 },
      }),
      { runtime, onMessage: (message) => told.push(message) },
    );
    expect(told.join("\n")).toMatch(/19 conversations with 38 answers/);
    expect(told.join("\n")).toMatch(/written {4}(red|blue)$/m);
    expect(result.best).toBeLessThan(0.2);
    const { model, weights, tokenizer, stopIds } = await loadForInference(runtime, at(`learned-${name}`), {
      kind: "encoder-decoder",
    });
    using decoder = await Decoder.create({ model, weights, capacity: 32 });
    const chat = new Chat(decoder, tokenizer, { stopIds: stopIds ?? endOfText(tokenizer), maxNewTokens: 8 });
    for (const [turn, colour] of ["blue", "red", "red", "blue", "red", "red"].entries()) {
      // As many turns as it has learned from.
      if (turn % 2 === 0) chat.reset();
      const answer = chat.answer(`say ${colour}`, { temperature: 0 });
      let text = "";
      let next = await answer.next();
      for (; !next.done; next = await answer.next()) text += next.value;
      expect([text.trim(), next.value.finish]).toEqual([colour, "stop"]);
    }
    weights.dispose();
  });

  it("has the loss of the same texts as pairs", async () => {
    const { tokenizer, weights } = await loadModel(runtime, at(name));
    weights.dispose();
    const pairs = [
      { source: "say red", target: "red" },
      { source: "User: say red\nAssistant: red\nUser: say blue\nAssistant:", target: "blue" },
    ];
    const messages = [
      { role: "user", content: "say red" },
      { role: "assistant", content: "red" },
      { role: "user", content: "say blue" },
      { role: "assistant", content: "blue" },
    ];
    await writeFile(at("one.jsonl"), JSON.stringify({ messages }));
    await writeFile(at("pairs.jsonl"), pairs.map((row) => JSON.stringify(row)).join("\n"));
    const still = { model: at(name), steps: 1, learningRate: 1e-12 };
    const chat = await finetuneChat(
      {
        ...still,
        data: at("one.jsonl"),
        eval: at("one.jsonl"),
        adapter: "none",
        samples: 0,
        out: at(`still-${name}`),
      },
      { runtime },
    );
    const text = await finetuneText(
      {
        ...{ ...still, data: at("pairs.jsonl"), eval: at("pairs.jsonl"), out: at(`pairs-${name}`) },
        ...{ labelSmoothing: 0, evalRows: 0 },
      },
      { runtime },
    );
    expect(chat.best).toBeCloseTo(text.best!, 5);
    expect(chat.trainedTokens).toBe(
      pairs.reduce((sum, { target }) => sum + tokenizer.encodePair(target).ids.length, 0),
    );
  });

  it.each(["lora", "qlora", "none"] as const)(
    "goes on after a stop to bit-equal losses: %s",
    async (adapter) => {
      const more = { model: at(name), adapter, loraDropout: 0.1 };
      await finetuneChat(request(`whole-${name}-${adapter}`, more), { runtime });
      const stop = new AbortController();
      const parts = `parts-${name}-${adapter}`;
      await finetuneChat(request(parts, more), {
        runtime,
        signal: stop.signal,
        observer: { stepped: ({ step }) => void (step === 2 && stop.abort()) },
      });
      expect((await resumeChat(at(parts), { runtime })).outcome).toBe("finished");
      expect(await losses(parts)).toEqual(await losses(`whole-${name}-${adapter}`));
    },
  );
});

describe("answers for an encoder-decoder", () => {
  const open = async () => {
    const { tokenizer, weights } = await loadModel(runtime, at("t5"));
    weights.dispose();
    return withChatTemplate(tokenizer, { mayAdd: false, reads: true }).tokenizer;
  };
  const conversation: Conversation = {
    row: 7,
    messages: [
      { role: "system", content: "say red" },
      { role: "user", content: "blue" },
      { role: "assistant", content: "red" },
      { role: "user", content: "red" },
      { role: "assistant", content: "blue", train: false },
      { role: "user", content: "blue blue" },
      { role: "assistant", content: "red blue red blue" },
    ],
  };

  it("are each a row of their own, with everything before them as the source", async () => {
    const tokenizer = await open();
    const encode = (options: object) =>
      encodeAnswers(new ChatTemplate(tokenizer), tokenizer, [conversation], {
        ...{ name: "x", maxLength: 64, ...options },
      });
    const source = (text: string) => tokenizer.encodePair(text).ids;
    const { rows, answers, conversations, trainedTokens } = encode({});
    expect(rows.map((row) => [row.row, row.source, row.target])).toEqual([
      [7, source("say red\n\nblue"), source("red")],
      [
        7,
        source(
          "say red\n\nUser: blue\nAssistant: red\nUser: red\nAssistant: blue\nUser: blue blue\nAssistant:",
        ),
        source("red blue red blue"),
      ],
    ]);
    const targets = source("red").length + source("red blue red blue").length;
    expect([answers, conversations, trainedTokens]).toEqual([2, 1, targets]);
    expect(encode({ train: "last" }).rows).toHaveLength(1);
    // The oldest exchanges go first, and the system's message stays.
    const short = source("say red\n\nblue blue");
    const found = encode({
      train: "last",
      maxLength: Math.max(short.length, source("red blue red blue").length),
    });
    expect(found.rows[0]!.source).toEqual(short);
    expect(found).toMatchObject({ long: [7], cutTokens: rows[1]!.source.length - short.length });
    const cut = encode({ train: "last", maxLength: 4 });
    expect(cut.rows[0]!.source).toEqual([...short.slice(0, 3), short.at(-1)]);
    expect(cut.rows[0]!.target).toEqual(source("red blue red blue").slice(0, 4));
    expect(cut.cutTrainedTokens).toBe(source("red blue red blue").length - 4);
    expect(() => encode({ train: "last", maxLength: 4, long: "skip" })).toThrow(
      "none of its 1 conversations is left",
    );
    expect(() => encode({ train: "last", maxLength: 4, long: "refuse" })).toThrow(
      "choose --long cut or skip",
    );
    expect(() => encode({ long: "split" })).toThrow("there is nothing to split");
    expect(() => encode({ train: "all" })).toThrow("choose --train assistant or last");
  });

  it("do not let a message write the tokens that end a source", async () => {
    const tokenizer = await open();
    const end = tokenizer.idToToken(tokenizer.eosId!)!;
    const ids = new ChatTemplate(tokenizer).source([{ role: "user", content: `red ${end} blue` }]);
    expect(ids.filter((id) => id === tokenizer.eosId)).toHaveLength(1);
    expect(ids.at(-1)).toBe(tokenizer.eosId);
  });

  it("are shown as the model sees them", async () => {
    const { rows, summary } = await showConversations(at("chats.jsonl"), { model: at("t5") });
    expect(summary).toContain("24 conversations with 48 answers");
    const [, second] = rows;
    expect(second!.pieces.map(({ text }) => text).join("")).toMatch(
      /User: say red\s+Assistant: red\s+User: say red\s+Assistant:<\/s>\n→ red<\/s>$/,
    );
    expect(second!.pieces.filter(({ trained }) => trained).map(({ text }) => text.trim())).toEqual([
      "red",
      "</s>",
    ]);
  });

  it("are refused in plain words where they cannot be learned", async () => {
    await writeTinyBert(at("bert"));
    const bad = async (more: Partial<FinetuneChatRequest>, reason: string) =>
      expect(finetuneChat(request("bad", more), { runtime })).rejects.toThrow(reason);
    await bad({ model: at("bert") }, "is an encoder, which writes no answers");
    await bad({ adapter: "prompt" }, "takes --adapter lora, qlora or none");
    await bad({ long: "split" }, "there is nothing to split");
    await bad({ train: "all" }, "choose --train assistant or last");
    await bad({ maxLength: 100 }, "has room for 64");
  });

  it("come from the command line, and from a run that goes on there", async () => {
    const { stderr, status } = await lineage(
      ...["finetune", "--task", "chat", "--model", at("t5"), "--data", at("chats.jsonl"), "--out", at("cli")],
      ...["--steps", "2", "--rank", "2", "--sample-tokens", "4"],
    );
    expect([status, stderr]).toEqual([0, expect.stringContaining("with 44 answers")]);
    const again = await lineage("finetune", "--resume", "--out", at("cli"));
    expect([again.status, again.stderr]).toEqual([0, expect.stringContaining("done")]);
    const loaded = await loadForInference(runtime, at("t5"), { kind: "encoder-decoder", adapter: at("cli") });
    expect(loaded.tokenizer.config.chat_template).toContain("Assistant:");
    loaded.weights.dispose();
  });
});
