import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type Message,
  readConversations,
  readPreferences,
  readRankings,
  readVerdicts,
  encodeConversation,
  encodeConversations,
} from "../../src/data/index.js";
import { ChatTemplate, Tokenizer, trainByteLevelBpe } from "../../src/tokenizers/index.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "conversations-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function file(rows: readonly unknown[], name = "rows.jsonl"): Promise<string> {
  const place = path.join(folder, name);
  const text = rows.map((row) => (typeof row === "string" ? row : JSON.stringify(row))).join("\n");
  await writeFile(place, name.endsWith(".gz") ? gzipSync(text) : text);
  return place;
}

const asked: Message = { role: "user", content: "Why?" };
const said: Message = { role: "assistant", content: "So." };
const other: Message = { role: "assistant", content: "No." };

describe("conversations of a file", () => {
  it("are one type, whatever layout they are written in, told by looking", async () => {
    const system = { role: "system", content: "Be brief." };
    const layouts: [string, unknown, unknown[]][] = [
      ["messages", { messages: [system, asked, said] }, [system, asked, said]],
      ["messages", { messages: [asked, said], system: "Be brief." }, [system, asked, said]],
      [
        "messages",
        {
          messages: [
            {
              role: "user",
              content: [
                { type: "text", text: "Wh" },
                { type: "text", value: "y?" },
              ],
            },
            said,
          ],
        },
        [asked, said],
      ],
      [
        "messages",
        { messages: [{ role: "developer", content: "Be brief." }, asked, said] },
        [system, asked, said],
      ],
      [
        "sharegpt",
        {
          conversations: [
            { from: "human", value: "Why?" },
            { from: "gpt", value: "So." },
          ],
          system: "Be brief.",
        },
        [system, asked, said],
      ],
      ["alpaca", { instruction: "Why?", input: "", output: "So." }, [asked, said]],
      [
        "alpaca",
        { instruction: "Add.", input: "1 2", output: "3", history: [["Why?", "So."]], system: "Be brief." },
        [system, asked, said, { role: "user", content: "Add.\n\n1 2" }, { role: "assistant", content: "3" }],
      ],
      ["completion", { prompt: "Why?", completion: "So." }, [asked, said]],
      ["completion", { question: "Why?", answer: "So." }, [asked, said]],
      ["completion", { prompt: [asked], completion: [said] }, [asked, said]],
    ];
    for (const [format, row, messages] of layouts) {
      const found = await readConversations(await file([row]));
      expect(found.format, JSON.stringify(row)).toBe(format);
      expect(found.rows).toEqual([{ row: 1, messages }]);
    }
  });

  it("are read from packed files and from tables whose cells are JSON", async () => {
    const packed = await readConversations(await file([{ messages: [asked, said] }], "rows.jsonl.gz"));
    expect(packed.rows[0]!.messages).toEqual([asked, said]);
    const cell = JSON.stringify([asked, said]).replaceAll('"', '""');
    const table = await readConversations(await file(["messages", `"${cell}"`], "rows.csv"));
    expect(table.rows).toEqual([{ row: 2, messages: [asked, said] }]);
    const columns = await readConversations(await file(["prompt,completion", "Why?,So."], "pairs.csv"));
    expect(columns.rows).toEqual([{ row: 2, messages: [asked, said] }]);
  });

  it("have calls of tools and their results, and turns that are not to be learned", async () => {
    const { rows } = await readConversations(
      await file([
        {
          conversations: [
            { from: "human", value: "Why?" },
            { from: "function_call", value: '{"name": "look", "arguments": {"at": 1}}' },
            { from: "observation", value: "[]" },
            { from: "gpt", value: "So." },
          ],
          tools: '[{"name": "look"}]',
        },
        { conversations: [{ role: "user", content: "Why?" }, { ...said, loss_weight: 0 }, asked, said] },
      ]),
      { format: "sharegpt" },
    );
    expect(rows).toEqual([
      {
        row: 1,
        tools: [{ name: "look" }],
        messages: [
          asked,
          {
            role: "assistant",
            content: "",
            tool_calls: [{ type: "function", function: { name: "look", arguments: { at: 1 } } }],
          },
          { role: "tool", content: "[]" },
          said,
        ],
      },
      { row: 2, messages: [asked, { ...said, train: false }, asked, said] },
    ]);
  });

  it("are refused by row where they cannot be learned, or left out", async () => {
    const bad: [unknown, RegExp][] = [
      [{ messages: [{ content: "Why?" }, said] }, /no role in message 1/],
      [{ messages: [{ role: "nobody", content: "Why?" }, said] }, /role "nobody"/],
      [
        { messages: [{ role: "system", content: "a" }, { role: "system", content: "b" }, asked, said] },
        /2 system messages \(1, 2\)/,
      ],
      [{ messages: [asked, { role: "system", content: "a" }, said] }, /system message in place 2/],
      [{ messages: [asked, { role: "assistant", content: "  " }] }, /empty answer in message 2/],
      [{ messages: [asked, { role: "assistant", content: null }] }, /empty answer in message 2/],
      [{ messages: [{ role: "user", content: "" }, said] }, /empty message 1 \(user\)/],
      [{ messages: [asked] }, /no answer of the assistant/],
      [{ messages: [] }, /no messages/],
      [{ messages: ["Why?", said] }, /no object with a role/],
      [
        { messages: [{ role: "user", content: [{ type: "image", url: "x" }] }, said] },
        /type "image"; only text/,
      ],
    ];
    for (const [row, reason] of bad) {
      const place = await file([{ messages: [asked, said] }, row]);
      await expect(readConversations(place), JSON.stringify(row)).rejects.toThrow(reason);
      await expect(readConversations(place)).rejects.toThrow(/row 2 /);
      const left = await readConversations(place, { skipBadRows: true });
      expect([left.rows.length, left.bad.map(({ number }) => number)]).toEqual([1, [2]]);
    }
  });

  it("are asked for by name where their layout is not certain, or where they are more than conversations", async () => {
    const both = { messages: [asked, said], instruction: "Why?", output: "No." };
    await expect(readConversations(await file([both]))).rejects.toThrow(
      /say which with --format messages or alpaca/,
    );
    expect((await readConversations(await file([both]), { format: "alpaca" })).rows[0]!.messages[1]).toEqual(
      other,
    );
    await expect(readConversations(await file([{ text: "Why?" }]))).rejects.toThrow(
      /has the columns text, .*no conversations.*--format sharegpt: conversations/s,
    );
    const pair = await file([{ prompt: "Why?", chosen: "So.", rejected: "No." }]);
    await expect(readConversations(pair)).rejects.toThrow(/--format preference learns the chosen answers/);
    const { rows } = await readConversations(pair, { format: "preference" });
    expect(rows).toEqual([{ row: 1, answer: "chosen", messages: [{ ...asked, train: false }, said] }]);
  });
});

describe("preferences of a file", () => {
  it("have their prompt apart, in every writing", async () => {
    const rows = [
      { prompt: "Why?", chosen: "So.", rejected: "No." },
      { prompt: [asked], chosen: [said], rejected: [other] },
      { prompt: "Why?", chosen: [asked, said], rejected: [asked, other] },
      { chosen: [asked, said], rejected: [asked, other] },
      {
        conversations: [{ from: "human", value: "Why?" }],
        chosen: { from: "gpt", value: "So." },
        rejected: { from: "gpt", value: "No." },
      },
      { instruction: "Why?", input: "", chosen: "So.", rejected: "No." },
      { chosen: "\n\nHuman: Why?\n\nAssistant: So.", rejected: "\n\nHuman: Why?\n\nAssistant: No." },
      { prompt: "\n\nHuman: Why?\n\nAssistant:", chosen: " So.", rejected: " No." },
      { question: "Why?", chosen: "So.", rejected: "No.", score_chosen: 3, score_rejected: 1.5 },
    ];
    for (const row of rows) {
      const { rows: found } = await readPreferences(await file([row]));
      expect(found, JSON.stringify(row)).toEqual([
        {
          row: 1,
          messages: [asked],
          chosen: [{ ...said, content: expect.stringMatching(/^ ?So\.$/) as string }],
          rejected: [{ ...other, content: expect.stringMatching(/^ ?No\.$/) as string }],
          ...("score_chosen" in row && { margin: 1.5 }),
        },
      ]);
    }
  });

  it("are refused where both answers are equal, one is empty or there is no prompt", async () => {
    const bad: [unknown, RegExp][] = [
      [{ prompt: "Why?", chosen: "So.", rejected: "So." }, /chosen answer equal to the rejected/],
      [{ prompt: "Why?", chosen: "So.", rejected: " " }, /empty answer in rejected/],
      [{ prompt: "", chosen: "So.", rejected: "No." }, /no prompt/],
    ];
    for (const [row, reason] of bad)
      await expect(readPreferences(await file([row]), { format: "preference" })).rejects.toThrow(reason);
  });

  it("come from rankings as every pair of which one is better", async () => {
    const ranked = await file([
      { prompt: "Why?", answers: ["a", "b", "c"], ranks: [2, 1, 2] },
      {
        prompt: "Why?",
        responses: [
          { text: "a", score: 1 },
          { text: "b", score: 3 },
        ],
      },
    ]);
    const { rows } = await readRankings(ranked);
    expect(rows.map(({ answers, ranks }) => [answers.map(([answer]) => answer!.content), ranks])).toEqual([
      [
        ["b", "a", "c"],
        [0, 1, 1],
      ],
      [
        ["b", "a"],
        [0, 1],
      ],
    ]);
    const pairs = (await readPreferences(ranked)).rows;
    expect(pairs.map(({ row, chosen, rejected }) => [row, chosen[0]!.content, rejected[0]!.content])).toEqual(
      [
        [1, "b", "a"],
        [1, "b", "c"],
        [2, "b", "a"],
      ],
    );
  });

  it("are thumbs where one answer has a label", async () => {
    const { rows } = await readVerdicts(
      await file([
        { messages: [asked, said], label: true },
        { prompt: "Why?", completion: "No.", label: "down" },
      ]),
      { format: "verdict" },
    );
    expect(rows).toEqual([
      { row: 1, messages: [asked], answer: [said], good: true },
      { row: 2, messages: [asked], answer: [other], good: false },
    ]);
  });
});

const data = ["../shared/data", "shared/data"].find((place) => existsSync(place));
describe.skipIf(data === undefined)("files of the field (../shared/data)", () => {
  it("are told apart, and every row is read", async () => {
    const at = (name: string) => path.join(data!, name);
    const conversations = await Promise.all(
      ["chat/alpaca_en_demo.json", "chat/v1_sft_demo.jsonl", "chat/glaive_toolcall_en_demo.json"].map(
        (name) => readConversations(at(name)),
      ),
    );
    expect(conversations.map(({ format, rows, bad }) => [format, rows.length, bad.length])).toEqual([
      ["alpaca", 999, 0],
      ["messages", 500, 0],
      ["sharegpt", 300, 0],
    ]);
    const preferences = await readPreferences(at("preferences/dpo_en_demo.json"));
    expect(preferences.rows).toHaveLength(300);
    const thumbs = await readVerdicts(at("preferences/kto_en_demo.json"));
    expect(thumbs.rows).toHaveLength(300);
    const harmless = await readPreferences(at("preferences/hh_harmless_test.jsonl.gz"), {
      skipBadRows: true,
    });
    expect(harmless.rows.length + harmless.bad.length).toBe(2312);
    expect(harmless.rows.length).toBeGreaterThan(2250);
  });
});

describe("ids and mask of a conversation", () => {
  const { definition, vocabSize } = trainByteLevelBpe(["user assistant Why? So. No. ".repeat(9)], {
    vocabSize: 300,
  });
  const tokenizer = new Tokenizer({
    ...definition,
    added_tokens: [
      ...definition.added_tokens,
      ...["<|im_start|>", "<|im_end|>"].map((content, index) => ({
        id: vocabSize + index,
        content,
        special: true,
      })),
    ],
  });
  const template = new ChatTemplate(
    tokenizer,
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
  );
  const messages = [asked, said, asked, other];
  const long = (turns: number) => ({
    row: turns,
    messages: [
      { role: "system", content: "Be." } as const,
      ...Array.from({ length: turns }, () => [asked, said]).flat(),
    ],
  });
  const trainedText = ({ tokens, trained }: { tokens: Int32Array; trained: Uint8Array }) =>
    tokenizer.decode(
      [...tokens].filter((_, index) => trained[index] === 1),
      { skipSpecialTokens: false },
    );

  it("train the assistant's turns, the last one, or all, and never what a row says is not to be learned", () => {
    const conversation = { row: 1, messages };
    expect(trainedText(encodeConversation(template, conversation))).toBe("So.<|im_end|>No.<|im_end|>");
    expect(trainedText(encodeConversation(template, conversation, { train: "last" }))).toBe("No.<|im_end|>");
    const all = encodeConversation(template, conversation, { train: "all" });
    expect(all.trained.reduce((sum, one) => sum + one, 0)).toBe(all.tokens.length - 1);
    const none = messages.map((message) => ({ ...message, train: false }));
    expect(() => encodeConversation(template, { row: 1, messages: none })).toThrow(
      /no token of it is trained/,
    );
  });

  it("count what is cut, left out and split", () => {
    const rows = [long(1), long(6)];
    const lengths = rows.map((row) => encodeConversation(template, row).tokens.length);
    const maxLength = lengths[0]! + 20;
    const options = { name: "rows", maxLength };
    const cut = encodeConversations(template, rows, options);
    expect(cut.rows.map(({ tokens }) => tokens.length)).toEqual([lengths[0], maxLength]);
    expect([cut.cutTokens, cut.long]).toEqual([lengths[1]! - maxLength, [6]]);
    const dropped = encodeConversations(template, rows, { ...options, long: "skip" });
    expect([dropped.conversations, dropped.dropped, dropped.cutTokens]).toEqual([1, [6], lengths[1]]);
    const split = encodeConversations(template, rows, { ...options, long: "split" });
    expect(split.cutTokens).toBe(0);
    // Every answer is still learned once, each part after the system message.
    expect(split.rows.slice(1).map(trainedText).join("")).toBe("So.<|im_end|>".repeat(6));
    for (const { tokens } of split.rows) {
      expect(tokens.length).toBeLessThanOrEqual(maxLength);
      expect(tokenizer.decode([...tokens])).toMatch(/^system\nBe\./);
    }
    expect(() => encodeConversations(template, rows, { ...options, long: "refuse" })).toThrow(
      /row 6 is longer than/,
    );
    // Nothing trained is left of a row that is cut before its answer.
    expect(() => encodeConversations(template, rows, { name: "rows", maxLength: 20 })).toThrow(
      /none of its 2 conversations is left: 2 are longer than 20 tokens/,
    );
  });

  it("name the rows that a template refuses", () => {
    const strict = new ChatTemplate(
      tokenizer,
      "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.content }}<|im_end|>{% endfor %}",
    );
    const rows = [{ row: 3, messages }, long(2)];
    expect(() => encodeConversations(strict, rows, { name: "rows", maxLength: 99 })).toThrow(
      /row 2 cannot be learned: the chat template refuses these messages: no system/,
    );
    const left = encodeConversations(strict, rows, { name: "rows", maxLength: 99, skipBadRows: true });
    expect([left.conversations, left.bad.length]).toEqual([1, 1]);
  });
});
