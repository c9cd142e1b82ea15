import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readTable } from "../../src/data/index.js";
import {
  builtInTasks,
  extracted,
  findTask,
  judged,
  majority,
  overlapLength,
  overlapping,
  planTask,
  questionsOf,
  rollingWindows,
  runPlan,
  scoresOf,
  shortNames,
} from "../../src/evaluation/index.js";
import { loadForInference } from "../../src/checkpoints/index.js";
import { batchesOf } from "../../src/evaluation/likelihood.js";
import { Decoder, generateText } from "../../src/generation/index.js";
import { scaledContext } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { lineage } from "../support/cli.js";
import { Reference } from "../support/reference.js";

let folder = "";
const model = new Reference("evaluation").path();
const rows = Array.from({ length: 6 }, (_, index) => ({
  q: `The cat eats fish number ${index}. Who?`,
  a: "cat",
  b: "small grey elephant",
  right: index % 2,
}));
const task = {
  data: "mine.jsonl",
  prompt: "{{ q }}",
  choices: ["{{ a }}", "{{ b }}"],
  target: "{{ right }}",
};

beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage evaluate "));
  await writeFile(path.join(folder, "mine.jsonl"), rows.map((row) => JSON.stringify(row)).join("\n"));
});
afterAll(() => rm(folder, { recursive: true }));

async function declared(name: string, changes: Record<string, unknown> = {}): Promise<string> {
  const file = path.join(folder, `${name}.json`);
  await writeFile(file, JSON.stringify({ ...task, ...changes }));
  return file;
}
const evaluate = (file: string, ...more: string[]) =>
  lineage("evaluate", "--model", model, "--tasks", file, ...more);

describe("A task", () => {
  it("asks its rows after the same examples, none of which is asked", async () => {
    const found = await findTask(
      await declared("shots", { delimiter: " = ", shots: { separator: "\n--\n" } }),
    );
    const { questions, examples } = await questionsOf(found, { shots: 2, seed: 1 });
    expect(examples).toHaveLength(2);
    expect(questions.map(({ row }) => row)).toEqual(
      [0, 1, 2, 3, 4, 5].filter((row) => !examples.includes(row)),
    );
    const shown = examples.map(
      (row) => `${rows[row]!.q} = ${row % 2 === 0 ? "cat" : "small grey elephant"}\n--\n`,
    );
    for (const { row, prompt, target } of questions) {
      expect(prompt).toBe(shown.join("") + rows[row]!.q);
      expect(target).toBe(rows[row]!.right);
    }
    expect((await questionsOf(found, { shots: 2, seed: 1 })).examples).toEqual(examples);
    const seeds = await Promise.all([1, 2, 3, 4].map((seed) => questionsOf(found, { shots: 2, seed })));
    expect(new Set(seeds.map((each) => each.examples.join())).size).toBeGreaterThan(1);
  });

  it.each([
    [
      "a column that is not there",
      { prompt: "{{ question }}" },
      /row 1: the template prompt fails: 'question' is undefined; the columns are q, a, b, right/,
    ],
    ["a template that is none", { prompt: "{% if %}" }, /the template prompt cannot be read/],
    ["an empty choice", { choices: ["{{ a }}", "{{ q[:0] }}"] }, /row 1: choice 2 of 2 is empty/],
    ["a blank choice", { choices: ["{{ a }}", " "] }, /row 1: choice 2 of 2 is empty/],
    ["one choice", { choices: "{{ a }}" }, /row 1: there is one choice alone, "cat"/],
    ["choices that are the same", { choices: ["{{ a }}", "cat"] }, /row 1: all 2 choices are "cat"/],
    [
      "answers as long as the context",
      { choices: undefined, generate: { maxNewTokens: 192 } },
      /write 192 tokens .*no room for a prompt in its context of 192/,
    ],
    ["a target that is no choice", { target: "dog" }, /the target "dog" is none of the choices "cat"/],
    ["two kinds of answers", { text: "{{ q }}" }, /must have one of choices, generate and text/],
    ["an unknown entry", { promt: "" }, /has "promt", which is not known here/],
    ["data that are not there", { data: "none.jsonl" }, /the data of bad are not there/],
  ])("with %s is refused in words", async (_, changes, message) => {
    const { status, stderr } = await evaluate(await declared("bad", changes));
    expect(status).toBe(1);
    expect(stderr).toMatch(message);
  });

  it("with fewer examples than shots is refused", async () => {
    const { status, stderr } = await evaluate(await declared("few"), "--shots", "0,6");
    expect(status).toBe(1);
    expect(stderr).toMatch(/few has 5 examples, which are fewer than --shots 6/);
  });
});

describe("lineage evaluate", () => {
  it("goes on where it was, and refuses another model's or task's results", async () => {
    const out = path.join(folder, "results");
    const file = await declared("mine");
    const stored = path.join(out, "mine-0-shot.json");
    const read = async () =>
      JSON.parse(await readFile(stored, "utf8")) as {
        complete: boolean;
        promptHash: string;
        identity: Record<string, unknown>;
        predictions: { row: number; logLikelihoods: number[] }[];
      };
    expect((await evaluate(file, "--out", out, "--limit", "2")).status).toBe(0);
    const first = await read();
    expect(first.predictions.map(({ row }) => row)).toEqual([0, 1]);
    // A prediction that is there is not made again.
    first.predictions[0]!.logLikelihoods = [-1, -2];
    await writeFile(stored, JSON.stringify(first));
    const { status, stdout } = await evaluate(file, "--out", out, "--json");
    expect(status).toBe(0);
    const second = await read();
    expect(second.complete).toBe(true);
    expect(second.predictions).toHaveLength(6);
    expect(second.predictions[0]!.logLikelihoods).toEqual([-1, -2]);
    expect(JSON.parse(stdout)).toMatchObject({ results: [{ task: "mine", shots: 0, rows: 6, beyond: 0 }] });

    const chat = await evaluate(file, "--out", out, "--chat");
    expect(chat.stderr).toMatch(/holds results of another kind of prompts: --chat \(false, now true\)/);
    await declared("mine", { revision: "2" });
    const other = await evaluate(file, "--out", out);
    expect(other.status).toBe(1);
    expect(other.stderr).toMatch(/holds results of another revision \(1, now 2\)/);
    await declared("mine");
    await writeFile(stored, JSON.stringify({ ...second, identity: { ...second.identity, model: "0" } }));
    expect((await evaluate(file, "--out", out)).stderr).toMatch(
      /holds results of .*, whose files have changed/,
    );
    await writeFile(
      stored,
      JSON.stringify({ ...second, model: "a.gguf", identity: { ...second.identity, model: "0" } }),
    );
    expect((await evaluate(file, "--out", out)).stderr).toMatch(
      /holds results of another model \(a\.gguf, now .*evaluation.*\); choose another --out/,
    );
  });

  it("counts prompts beyond the context, and cuts them where that is asked for", async () => {
    const long = "The cat eats fish. ".repeat(60);
    await writeFile(
      path.join(folder, "long.jsonl"),
      [...rows.slice(0, 2), { ...rows[0]!, q: long }].map((row) => JSON.stringify(row)).join("\n"),
    );
    const file = await declared("long", { data: "long.jsonl" });
    const counted = await evaluate(file, "--json");
    expect(JSON.parse(counted.stdout)).toMatchObject({ results: [{ rows: 2, beyond: 1, cut: 0 }] });
    expect(counted.stderr).toMatch(
      /long, 0-shot: 1 of 3 prompts was longer than the context of 192 tokens and not asked/,
    );
    const cut = await evaluate(file, "--json", "--truncate");
    expect(JSON.parse(cut.stdout)).toMatchObject({ results: [{ rows: 3, beyond: 0, cut: 1 }] });
    const none = await evaluate(
      await declared("longer", { prompt: "{% for _ in range(60) %}{{ q }}{% endfor %}" }),
    );
    expect(none.stderr).toMatch(/6 of 6 prompts were longer/);
    expect(none.stdout).toMatch(/longer +0 +0 +no row was asked/);
  });

  it("asks the rows of a file of keys, and shows the others", async () => {
    await writeFile(path.join(folder, "keys.json"), JSON.stringify({ 1: "yes", 4: "no" }));
    const keyed = await declared("keyed", {
      ask: { data: "keys.json", key: "{{ q.split('number ')[1][0] }}" },
    });
    const { questions, examples } = await questionsOf(await findTask(keyed), { shots: 3, seed: 0 });
    expect(questions.map(({ row }) => row)).toEqual([1, 4]);
    expect(examples).toHaveLength(3);
    expect(examples.every((row) => row !== 1 && row !== 4)).toBe(true);
    const none = await declared("unkeyed", { ask: { data: "keys.json", key: "{{ q }}" } });
    expect((await evaluate(none)).stderr).toMatch(/no row of unkeyed has a key of/);
    const few = await evaluate(keyed, "--shots", "5");
    expect(few.stderr).toMatch(/keyed has 4 examples, which are fewer than --shots 5/);
  });

  it("tells scores of questions that share words with a training text", async () => {
    const train = path.join(folder, "train.txt");
    await writeFile(train, "Once. THE cat eats fish, number 3; who? Cat small grey elephant was here.\n");
    const file = await declared("seen", { prompt: "{{ q }}" });
    const { stdout, stderr, status } = await evaluate(file, "--overlap", train, "--json");
    expect(stderr).toBe("");
    expect(status).toBe(0);
    const { results } = JSON.parse(stdout) as {
      results: { overlap: Record<string, unknown>; scores: { acc: { value: number } } }[];
    };
    // Row 3 asks for the elephant: 10 words, of which the text has none 9 in a row but "the cat … who".
    expect(results[0]!.overlap).toMatchObject({ words: 8, dirtyRows: 0, cleanRows: 6 });
    await writeFile(train, "It said: the cat eats fish; number 3. Who? Small grey elephant!\n");
    const again = await evaluate(file, "--overlap", train);
    expect(again.stderr).toMatch(/seen, 0-shot: 1 questions share 8 words in a row with .*; 5 do not, acc/);
    expect((await evaluate(file, "--overlap", path.join(folder, "absent.txt"))).stderr).toMatch(/absent.txt/);
  });

  it("shows results of several runs as a table and as a picture", async () => {
    const [one, two] = [path.join(folder, "run one"), path.join(folder, "run two")];
    const file = await declared("shown");
    expect((await evaluate(file, "--out", one, "--shots", "0,2")).status).toBe(0);
    expect((await evaluate(file, "--out", two, "--limit", "3")).status).toBe(0);
    const plot = path.join(folder, "scores.svg");
    const { stdout, status } = await lineage("evaluate", "show", one, two, "--metric", "acc", "--plot", plot);
    expect(status).toBe(0);
    const weights = await readFile(path.join(model, "model.safetensors"));
    const header = JSON.parse(
      weights.subarray(8, 8 + Number(weights.readBigUInt64LE(0))).toString(),
    ) as Record<string, { shape?: number[] }>;
    const size = Object.values(header).reduce(
      (sum, { shape }) => sum + (shape?.reduce((product, dim) => product * dim, 1) ?? 0),
      0,
    );
    const parameters = size.toLocaleString("en-US");
    const lines = stdout
      .trim()
      .split("\n")
      .map((line) => line.split(/ {2,}/));
    expect(lines.map((cells) => cells.slice(1, 6))).toEqual([
      ["parameters", "task", "shots", "rows", "metric"],
      [parameters, "shown", "0", "6", "acc"],
      [parameters, "shown", "2", "4", "acc"],
      [parameters, "shown", "0", "3", "acc"],
    ]);
    expect(await readFile(plot, "utf8")).toMatch(/^<svg/);
    const empty = path.join(folder, "empty");
    await mkdir(empty);
    expect((await lineage("evaluate", "show", empty)).stderr).toMatch(/has no results/);
    expect((await lineage("evaluate", "--tasks", file)).stderr).toMatch(/--model is required/);
  });

  it("measures several models, each in a folder of its own, and goes on with each", async () => {
    const [out, plot] = [path.join(folder, "several"), path.join(folder, "several.svg")];
    const other = path.join(folder, "other model");
    await cp(model, other, { recursive: true });
    const file = await declared("many");
    const both = (...more: string[]) => evaluate(file, "--model", other, "--out", out, ...more);
    const first = await both("--limit", "2", "--json");
    expect(first.status).toBe(0);
    const lines = first.stdout.trim().split("\n");
    expect(lines.map((line) => (JSON.parse(line) as { model: string }).model)).toEqual([model, other]);
    const stored = path.join(out, "other model", "many-0-shot.json");
    const read = async () =>
      JSON.parse(await readFile(stored, "utf8")) as { predictions: { logLikelihoods: number[] }[] };
    const before = await read();
    // A prediction that is there is not made again: 0 for the right answer of the first row.
    before.predictions[0]!.logLikelihoods = [0, -90];
    await writeFile(stored, JSON.stringify(before));
    const { status, stdout, stderr } = await both("--shots", "0,2", "--metric", "acc", "--plot", plot);
    expect(status).toBe(0);
    expect((await read()).predictions[0]!.logLikelihoods).toEqual([0, -90]);
    const cells = stdout
      .trim()
      .split("\n")
      .map((line) => line.split(/ {2,}/));
    expect(cells.map((line) => [line[0], ...line.slice(2, 6)])).toEqual([
      ["model", "task", "shots", "rows", "metric"],
      ...[path.basename(path.resolve(model)), "other model"].flatMap((name) => [
        [name, "many", "0", "6", "acc"],
        [name, "many", "2", "4", "acc"],
      ]),
    ]);
    expect(stderr).toContain("2 curves over shots");
    expect(await readFile(plot, "utf8")).toContain("other model, many (acc)");
    expect((await lineage("evaluate", "show", out, "--metric", "acc")).stdout).toBe(stdout);
    const shown = JSON.parse((await lineage("evaluate", "show", out, "--json")).stdout) as unknown[];
    expect(shown).toMatchObject([0, 2, 0, 2].map((shots) => ({ task: "many", shots, complete: true })));
    // What was measured is told of, although the second model cannot be.
    const changed = JSON.parse(await readFile(stored, "utf8")) as { identity: object };
    await writeFile(stored, JSON.stringify({ ...changed, identity: { ...changed.identity, seed: 9 } }));
    const half = await both("--metric", "acc");
    expect(half.status).toBe(1);
    expect(half.stderr).toMatch(/other model.many-0-shot.json holds results of another seed \(9, now 0\)/);
    expect(half.stdout.trim().split("\n").slice(1)).toEqual([expect.stringMatching(/^evaluation .* acc /)]);
    expect((await evaluate(file, "--model", model)).stderr).toMatch(/--model names .* twice/);
    const wrong = await evaluate(file, "--metric", "bleu", "--plot", plot);
    expect(wrong.stderr).toMatch(/no result has the metric bleu; there are acc, acc_norm/);
    // What was measured is not lost for that.
    expect(wrong.stdout).toMatch(/many +0 +6 +acc +0\.\d{4}/);
  });

  it("names models by what tells them apart", () => {
    expect(shortNames(["a/model.gguf", "b/model.gguf", "b/chat.gguf"])).toEqual([
      "a-model",
      "b-model",
      "chat",
    ]);
    expect(shortNames(["one/x/", "./two/x", "hub/ORG"])).toEqual(["one-x", "two-x", "ORG"]);
  });

  it("writes examples and question in one turn where that is asked for", async () => {
    const found = await findTask(await declared("turns", { instructions: "Say who.", delimiter: " = " }));
    const seen: unknown[] = [];
    const options = { shots: 1, seed: 0, limit: 1, chat: (messages: unknown) => (seen.push(messages), "") };
    const { questions, examples } = await questionsOf(found, { ...options, oneTurn: true });
    const [shown, asked] = [rows[examples[0]!]!, rows[questions[0]!.row]!];
    const answer = shown.right === 0 ? "cat" : "small grey elephant";
    expect(seen.at(-1)).toEqual([
      { role: "system", content: "Say who." },
      { role: "user", content: `${shown.q} = ${answer}\n\n${asked.q}` },
    ]);
    const file = await declared("turns");
    expect((await evaluate(file, "--one-turn")).stderr).toMatch(/--one-turn .* give --chat as well/);
  });

  it("lets a model write, and votes over samples", async () => {
    const file = await declared("written", {
      choices: undefined,
      target: "{{ a }}",
      generate: { maxNewTokens: 4, extract: "[a-z]+" },
    });
    const { stdout, status } = await evaluate(file, "--samples", "3", "--json", "--limit", "2");
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ results: [{ rows: 2, scores: { exact_match: {} } }] });
  });
});

describe("ensemble refinement", () => {
  it("asks again after the answers of a first round, and lets the second one vote", async () => {
    const file = await declared("refined", {
      choices: undefined,
      target: "{{ a }}",
      generate: { maxNewTokens: 4, extract: "[a-z]+" },
    });
    using runtime = createRuntime();
    const { weights, ...loaded } = await loadForInference(runtime, model);
    const { tokenizer } = loaded;
    const plan = await planTask(await findTask(file), tokenizer, scaledContext(loaded.model.config), {
      ...{ refine: 2, samples: 3, limit: 1, seed: 5 },
    });
    // Random bytes become more tokens when they are read again than they were when they were written.
    expect(plan.capacity).toBeGreaterThan(tokenizer.encode(plan.asked[0]!.question.prompt).length + 3 * 4);
    using decoder = await Decoder.create({ ...loaded, weights, capacity: 2 * plan.capacity, slots: 2 });
    const [found] = await runPlan({ ...loaded, decoder }, plan);
    const { question } = plan.asked[0]!;
    const write = async (prompt: string, stream: number) =>
      (
        await generateText({ ...loaded, decoder }, prompt, {
          ...{ stream, seed: 5, temperature: 0.7, maxNewTokens: 4 },
        }).all()
      ).text;
    const first = 5 * question.row;
    const reasonings = [await write(question.prompt, first), await write(question.prompt, first + 1)];
    const [one, two] = reasonings.map((text) => text.trim());
    const again = `Answer 1: ${one}\nAnswer 2: ${two}\n\n${question.prompt}`;
    const texts = [
      await write(again, first + 2),
      await write(again, first + 3),
      await write(again, first + 4),
    ];
    expect(found).toMatchObject({ kind: "text", reasonings, texts });
    weights.dispose();
  });

  it("is for answers that are written, in a context that holds them twice", async () => {
    const chosen = await declared("chosen");
    expect((await evaluate(chosen, "--refine", "2")).stderr).toMatch(/nothing to refine/);
    const file = await declared("many", {
      ...{ choices: undefined, target: "{{ a }}" },
      generate: { maxNewTokens: 4, extract: "[a-z]+" },
    });
    const { stdout, stderr } = await evaluate(file, "--refine", "500", "--json", "--limit", "2");
    expect(JSON.parse(stdout)).toMatchObject({ results: [{ rows: 0, beyond: 2 }] });
    expect(stderr).toMatch(/2 prompts were longer than the context/);
  });
});

const data = path.resolve("../shared/data");

describe.skipIf(!existsSync(data))("Built-in tasks over their files", () => {
  // Rows of each file; of PubMedQA the 500 test ids, of MMLU one question a subject.
  it.each([
    ["sst2", 872],
    ["logiqa", 1354],
    ["medmcqa", 300],
    ["pubmedqa", 500],
    ["mmlu-cot", 57],
    ["gsm8k", 1319],
    ["humaneval-perplexity", 164],
    ["exams-german", undefined],
    ["exams-french", undefined],
    ["exams-spanish", undefined],
    ["exams-italian", undefined],
    ["exams-portuguese", undefined],
  ])("%s asks every row, after examples where it has some", async (name, rows) => {
    const found = await findTask(name, { data });
    const { questions } = await questionsOf(found, { shots: 0, seed: 0 });
    if (rows !== undefined) expect(questions).toHaveLength(rows);
    if (found.declaration.choices !== undefined) {
      expect(questions.every(({ choices }) => choices.length >= 2)).toBe(true);
      // Right answers are not all in one place.
      expect(new Set(questions.map(({ target }) => target)).size).toBeGreaterThan(1);
    }
    if (found.declaration.shots === false) return;
    const shown = await questionsOf(found, { shots: 3, seed: 0 });
    expect(shown.examples).toHaveLength(3);
    const last = questions.find(({ row }) => row === shown.questions[0]!.row)!;
    expect(shown.questions[0]!.prompt.endsWith(last.prompt)).toBe(true);
  });

  it("knows every built-in task", () => {
    expect([...builtInTasks.keys()].sort()).toEqual(
      [
        ...["sst2", "logiqa", "medmcqa", "pubmedqa", "mmlu-cot", "gsm8k", "humaneval-perplexity"],
        ...["german", "french", "spanish", "italian", "portuguese"].map((language) => `exams-${language}`),
      ].sort(),
    );
  });
});

describe("The parts of an evaluation", () => {
  it("find what shares words in a row with a text, whatever their case and marks", async () => {
    const file = path.join(folder, "long.txt");
    const words = Array.from({ length: 60_000 }, (_, index) => `word${index}`);
    await writeFile(file, words.join(" "));
    const run = (start: number, count: number) =>
      words
        .slice(start, start + count)
        .join(", ")
        .toUpperCase();
    const texts = [
      `before ${run(31_000, 13)} after`,
      `before ${run(31_000, 12)} after ${run(50, 12)}`,
      run(59_987, 13),
      run(0, 5),
      "other words",
      "",
    ];
    expect(await overlapping(texts, [file], 13)).toEqual({ texts: new Set([0, 2, 3]), common: 0 });
    const packed = `${file}.gz`;
    await writeFile(packed, gzipSync(await readFile(file)));
    expect((await overlapping(texts, [packed], 13)).texts).toEqual(new Set([0, 2, 3]));
    // The definition: every start of 13 words, looked for in the whole text.
    const whole = ` ${words.join(" ")} `;
    for (const [place, text] of texts.entries()) {
      const own = text.toLowerCase().match(/[a-z0-9]+/g) ?? [];
      const size = Math.min(13, own.length);
      const starts = Array.from({ length: own.length - size + 1 }, (_, start) =>
        own.slice(start, start + size),
      );
      const seen = size > 0 && starts.some((part) => whole.includes(` ${part.join(" ")} `));
      expect((await overlapping(texts, [file], 13)).texts.has(place)).toBe(seen);
    }
    // From 8 to 13, by the length of the shortest but five in a hundred.
    const lengths = (count: number) => Array.from({ length: 40 }, () => words.slice(0, count).join(" "));
    expect([3, 10, 100].map((count) => overlapLength(lengths(count)))).toEqual([8, 10, 13]);
  });

  it("leave out what more than 10 documents have, of texts, tables and packed files", async () => {
    const phrase = "the parties agree to settle all claims out of court in good faith";
    const rare = "seven small grey elephants walked over the old wooden bridge at noon today";
    const [text, rows] = [path.join(folder, "documents.txt.gz"), path.join(folder, "documents.jsonl")];
    const write = async (documents: number, again: number) => {
      // A phrase that one document repeats is in one document.
      const marked = Array.from({ length: documents }, () => `${phrase}. And ${phrase}!`);
      await writeFile(text, gzipSync(marked.join("<|endoftext|>")));
      const tabled = Array.from({ length: again }, () =>
        JSON.stringify({ turns: [{ content: phrase }], n: 1 }),
      );
      await writeFile(rows, [...tabled, JSON.stringify({ turns: [{ content: rare }] })].join("\n"));
      return overlapping([`${phrase}?`, rare], [text, rows], 13);
    };
    expect(await write(7, 3)).toEqual({ texts: new Set([0, 1]), common: 0 });
    expect(await write(7, 4)).toEqual({ texts: new Set([1]), common: 1 });
    // Words in a row are not of two documents.
    const [one, two] = [rare.slice(0, 30), rare.slice(30)];
    await writeFile(text, gzipSync(`${one}<|endoftext|>${two}`));
    expect((await overlapping([rare], [text], 13)).texts).toEqual(new Set());
    await writeFile(text, gzipSync(`${one}<|endof${two}`));
    expect((await overlapping([`${one} endof${two}`], [text], 13)).texts).toEqual(new Set([0]));
    await writeFile(text, "no gzip");
    await expect(overlapping([rare], [text], 13)).rejects.toThrow(/documents.txt.gz.*cannot be unpacked/);
    const parquet = new Reference("rows.parquet").path().replace(/\/$/, "");
    const { rows: stored } = await readTable(parquet);
    const cell = Object.values(stored[0]!.values).find((value) => typeof value === "string") as string;
    expect((await overlapping([cell, rare], [parquet], 8)).texts).toEqual(new Set([0]));
  });

  it("read together what begins alike, as much as makes up a run", () => {
    const shared = Array.from({ length: 50 }, (_, index) => index);
    // Twelve questions of 10 tokens after the same 50, with two answers of 3 tokens each: 10 + 2 + 2 tokens to be read.
    const asked = Array.from({ length: 24 }, (_, index) => ({
      context: [
        ...shared,
        ...Array.from({ length: 10 }, (_, place) => 100 * Math.floor(index / 2) + place + 1000),
      ],
      target: [index % 2, 7, 8],
    }));
    const batches = batchesOf([...asked].reverse(), { tokens: 30, rows: 100 });
    expect(batches.map(({ held, readings }) => [held, readings.length])).toEqual(
      Array.from({ length: 6 }, () => [50, 4]),
    );
    const places = batches.flatMap(({ readings }) => readings.map(({ place }) => place));
    expect(places.sort((a, b) => a - b)).toEqual(asked.map((_, index) => index));
    // Each question needs logits after its context and after two tokens of both answers.
    expect(batchesOf(asked, { tokens: 1000, rows: 10 }).every(({ readings }) => readings.length === 4)).toBe(
      true,
    );
    // One too long for a run stands alone, after its whole context but the last token.
    const long = { context: shared, target: shared };
    expect(batchesOf([long, long], { tokens: 30, rows: 100 }).map(({ held }) => held)).toEqual([49, 49]);
  });

  it("predict each token of a long text once", () => {
    const ids = Array.from({ length: 23 }, (_, index) => index + 1);
    for (const overlap of [1, 3, 6]) {
      const windows = rollingWindows(ids, 0, 7, overlap);
      expect(windows.flatMap(({ target }) => target)).toEqual(ids);
      for (const [index, { context, target }] of windows.entries()) {
        expect(context.length + target.length - 1).toBeLessThanOrEqual(7);
        expect(context.at(-1)).toBe(target[0]! - 1);
        if (index > 0) expect(context.length).toBeGreaterThanOrEqual(overlap);
      }
    }
    expect(rollingWindows(ids, undefined, 7).flatMap(({ target }) => target)).toEqual(ids.slice(1));
  });

  it("extract an answer, and take what most samples say", () => {
    const text = "It is 3. No, #### 1,204 dollars #### 7";
    expect(extracted(text, { extract: "#### ([0-9,]+)", take: "first" })).toBe("1,204");
    expect(extracted(text, { extract: "#### ([0-9,]+)", take: "last" })).toBe("7");
    expect(extracted("none", { extract: "#### ([0-9,]+)", take: "last" })).toBeNull();
    // lm-evaluation-harness's flexible-extract: the last number of the text.
    const flexible = { ...builtInTasks.get("gsm8k")!.generate!, take: "last" as const };
    const rule = { ignore: flexible.ignore!, take: flexible.take, extract: flexible.flexible! };
    const sums = "It costs $5, so 3 of them cost $1,015.";
    expect(judged([sums], "1015", rule)).toEqual({ answer: "$1,015.", correct: true });
    expect(judged([sums, "7", "x -7"], "7", rule).correct).toBe(false);
    expect(majority(["7", null, "8", "8", null, null])).toBe("8");
    expect(majority([null])).toBeNull();
  });

  it("normalise likelihoods by the length of the choice", () => {
    const [prediction] = [
      {
        kind: "choices" as const,
        row: 0,
        hash: "",
        choices: ["é", "abcd"],
        target: 1,
        answer: 0,
        logLikelihoods: [-1.9, -4],
        tokens: [1, 2],
        greedy: [false, false],
        unconditional: [-1, -9],
      },
    ];
    const scores = scoresOf([prediction]);
    // -1.9 for a character against -1; -0.95 for a byte against -1; -1.9 for a token against -2.
    expect(scores["acc"]!.value).toBe(0);
    expect(scores["acc_norm"]!.value).toBe(1);
    expect(scores["acc_bytes"]!.value).toBe(0);
    expect(scores["acc_tokens"]!.value).toBe(0);
    expect(scores["acc_mutual_info"]!.value).toBe(1);
  });
});
