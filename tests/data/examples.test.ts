import { describe, expect, it } from "vitest";
import { type Table, type TaskName, examplesOf, isHeaderOf } from "../../src/data/index.js";

/** A table of JSON rows, numbered from 1. */
const table = (rows: Record<string, unknown>[], named = true): Table => ({
  file: "my.jsonl",
  columns: [...new Set(rows.flatMap(Object.keys))],
  bad: [],
  rows: rows.map((values, index) => ({ number: index + 1, values })),
  named,
});
const read = (task: TaskName, ...rows: Record<string, unknown>[]) => examplesOf(task, table(rows)).examples;

describe("examples", () => {
  it("find their columns by the usual names, and say which", () => {
    const { examples, columns } = examplesOf(
      "classify",
      table([{ id: 7, Review: "good", sentiment: "pos" }]),
    );
    expect(examples).toEqual([{ row: 1, text: "good", label: "pos" }]);
    expect(columns).toBe('text from "Review", label from "sentiment"');
    expect(read("pair", { premise: "a", hypothesis: "b", gold_label: 1 })).toEqual([
      { row: 1, text: "a", pair: "b", label: "1" },
    ]);
  });

  it("find them by content where there is no header", () => {
    const rows = [
      { column1: "a long sentence about films", column2: "1" },
      { column1: "another sentence", column2: "0" },
      { column1: "and a third one", column2: "1" },
    ];
    const { examples } = examplesOf("classify", table(rows, false));
    expect(examples[0]).toEqual({ row: 1, text: "a long sentence about films", label: "1" });
    expect(isHeaderOf({})(["a stirring , funny film", "1"])).toBe(false);
    expect(isHeaderOf({})(["sentence", "label"])).toBe(true);
    expect(isHeaderOf({ text: "body" })(["body", "mark"])).toBe(true);
  });

  it("are refused when the first row seems to name columns that nobody knows", () => {
    const rows = [
      ["phrase", "emotion"],
      ["a long text", "joy"],
      ["and more", "joy"],
      ["text", "fear"],
      ["so", "fear"],
    ];
    const unnamed = table(
      rows.map(([column1, column2]) => ({ column1, column2 })),
      false,
    );
    expect(() => examplesOf("classify", unnamed)).toThrow(
      'row 1 ("phrase", "emotion") seems to name the columns, but none of the names is a usual one',
    );
  });

  it("say which columns there are when one is missing", () => {
    expect(() => read("classify", { a: 1, b: 2 })).toThrow(
      "my.jsonl has no column for the text; it has a, b. Name the right one with --text-column",
    );
    expect(() => examplesOf("classify", table([{ text: "" }]), { label: "mark" })).toThrow(
      'my.jsonl has no column named "mark"; it has text. Name the right one with --label-column',
    );
  });

  it("keep rows without a label and rows without a text", () => {
    expect(
      read("classify", { text: "a", label: "x" }, { text: "", label: " " }, { text: null, label: null }),
    ).toEqual([
      { row: 1, text: "a", label: "x" },
      { row: 2, text: "" },
      { row: 3, text: "" },
    ]);
  });

  it("have numbers to regress to", () => {
    expect(read("regress", { text: "a", score: "2.5" })[0]!.label).toBe(2.5);
    expect(() => read("regress", { text: "a", score: "high" })).toThrow(
      'my.jsonl: row 1 has "high" where a number should be',
    );
  });

  it("have a tag for every word", () => {
    expect(read("tag", { tokens: ["New", "York"], tags: ["B-LOC", "I-LOC"] })[0]).toMatchObject({
      words: ["New", "York"],
      label: ["B-LOC", "I-LOC"],
    });
    expect(read("tag", { words: "New York", tags: "B-LOC I-LOC" })[0]!.words).toEqual(["New", "York"]);
    expect(() => read("tag", { tokens: ["a", "b"], tags: ["O"] })).toThrow(
      "row 1 has 2 words but 1 tags; each word needs one",
    );
  });

  it("have answers where the text has them", () => {
    const context = "🙂 Paris is in France";
    expect(
      read("span", { question: "Where?", context, answers: { text: ["France"], answer_start: [14] } })[0],
    ).toEqual({ row: 1, text: "Where?", pair: context, label: [{ text: "France", start: 14 }] });
    expect(read("span", { question: "Where?", context, answer: "France" })[0]!.label).toEqual([
      { text: "France", start: 14 },
    ]);
    expect(
      read("span", { question: "?", context, answers: { text: [], answer_start: [] } })[0]!.label,
    ).toEqual([]);
    expect(() => read("span", { question: "?", context, answer: "Rome" })).toThrow(
      'row 1 has the answer "Rome", which its text does not contain',
    );
    expect(() =>
      read("span", { question: "?", context, answers: { text: ["Paris"], answer_start: [3] } }),
    ).toThrow('"Paris", which does not stand at character 3');
  });

  it("have choices, the right one by place, letter or text", () => {
    const swag = { sent1: "He sits", ending0: "down", ending1: "up", label: 1 };
    expect(read("choice", swag)[0]).toEqual({ row: 1, text: "He sits", choices: ["down", "up"], label: 1 });
    expect(read("choice", { text: "?", choices: ["x", "y"], label: "B" })[0]!.label).toBe(1);
    expect(read("choice", { text: "?", choices: ["x", "y"], label: "y" })[0]!.label).toBe(1);
    expect(() => read("choice", { text: "?", choices: ["x", "y"], label: "z" })).toThrow(
      'row 1 has the label "z", which is none of its 2 choices',
    );
  });
});
