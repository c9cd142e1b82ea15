import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { environment, lineage, main } from "../support/cli.js";
import { writeTinyBert } from "../support/tiny-encoder.js";

let folder = "";
let model = "";
let run = "";
const place = (name: string) => path.join(folder, name);
const fast = ["--epochs", "8", "--batch", "8", "--learning-rate", "3e-3"];

beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage "));
  model = place("model");
  run = place("run é");
  await mkdir(model);
  await writeTinyBert(model);
  const rows = ["film", "food", "song", "dog", "cat", "play", "red", "old"].flatMap((word) => [
    `the ${word} was good\tkind`,
    `the ${word} was bad\tunkind`,
    `a very good ${word}\tkind`,
    `a very bad ${word}\tunkind`,
  ]);
  await writeFile(place("train.tsv"), `${rows.join("\n")}\n`);
  await writeFile(place("dev.csv"), "sentence,label\na good film,kind\nthe bad song,unkind\n");
  const { status, stdout, stderr } = await lineage(
    ...["finetune", "--model", model, "--task", "classify", "--data", place("train.tsv")],
    ...["--eval", place("dev.csv"), "--out", run, ...fast, "--json"],
  );
  expect(stderr).toBe("");
  expect(status).toBe(0);
  const last = JSON.parse(stdout.trim().split("\n").at(-1)!) as { metrics: Record<string, number> };
  expect(last.metrics["accuracy"]).toBe(1);
});
afterAll(() => rm(folder, { recursive: true }));

/** The JSON objects of lines. */
const records = (text: string) =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

describe("lineage finetune --folds", () => {
  it("saves at Ctrl-C, and goes on with the folds that are left", async () => {
    const out = place("folds");
    const options = ["--model", model, "--task", "classify", "--data", place("train.tsv"), ...fast];
    const child = spawn(
      process.execPath,
      [main, "finetune", ...options, "--folds", "3", "--out", out, "--json"],
      { env: environment },
    );
    let written = "";
    let interrupted = false;
    child.stdout.on("data", (data: Buffer) => {
      written += data.toString();
      if (interrupted || !written.includes('"fold 2 of 3"')) return;
      interrupted = true;
      child.kill("SIGINT");
    });
    expect(await new Promise((resolve) => child.on("exit", resolve))).toBe(130);
    expect(records(written).at(-1)).toMatchObject({ outcome: "interrupted", done: 1, folds: 3 });
    const { status, stdout } = await lineage("finetune", "--resume", "--out", out, "--json");
    expect(status).toBe(0);
    const messages = records(stdout).map(({ message }) => message);
    expect(messages).toContain("resumed after fold 1 of 3");
    expect(messages).not.toContain("fold 1 of 3");
    expect(records(stdout).at(-1)!["summary"]).toMatchObject({
      accuracy: { mean: expect.any(Number) as number },
    });
  });
});

describe("lineage predict", () => {
  it("answers a line, with all probabilities where they are asked for", async () => {
    const { stdout } = await lineage(
      "predict",
      "--model",
      run,
      "the food was bad",
      "--json",
      "--probabilities",
    );
    expect(records(stdout)).toMatchObject([
      { text: "the food was bad", label: "unkind", probabilities: { kind: expect.any(Number) as number } },
    ]);
    expect((await lineage("predict", "--model", run, "the food was bad")).stdout).toMatch(
      /^unkind\t0\.\d{4}\tthe food was bad\n$/,
    );
  });

  it("answers a file, and says how right it was where the file has labels", async () => {
    const out = place("answers.jsonl");
    const { stderr, status } = await lineage(
      "predict",
      "--model",
      run,
      "--data",
      place("dev.csv"),
      "--out",
      out,
    );
    expect(status).toBe(0);
    expect(stderr).toContain("2 labelled rows: ");
    expect(stderr).toContain("accuracy 1.0000");
    expect(records(await readFile(out, "utf8"))).toMatchObject([
      { row: 2, text: "a good film", label: "kind" },
      { row: 3, text: "the bad song", label: "unkind" },
    ]);
  });

  it("answers a stream line by line, before it ends", async () => {
    const child = spawn(process.execPath, [main, "predict", "--model", run, "--json"], { env: environment });
    const answers: string[] = [];
    child.stdin.write("a good dog\n");
    await new Promise<void>((resolve) => {
      child.stdout.on("data", (data: Buffer) => {
        answers.push(...data.toString().trim().split("\n"));
        if (answers.length === 1) child.stdin.end("a bad dog\n");
      });
      child.on("exit", () => {
        resolve();
      });
    });
    expect(answers.map((line) => (JSON.parse(line) as { label: string }).label)).toEqual(["kind", "unkind"]);
  });
});

describe("lineage embed, search and fill-mask", () => {
  it("write vectors for NumPy and as JSON lines", async () => {
    const out = place("vectors.npy");
    expect(
      (await lineage("embed", "--model", model, "--data", place("train.tsv"), "--out", out)).status,
    ).toBe(0);
    const bytes = await readFile(out);
    expect(bytes.subarray(1, 6).toString()).toBe("NUMPY");
    expect(bytes.readUInt16LE(8) % 64).toBe(54);
    expect(bytes.toString("latin1")).toContain("'shape': (32, 32)");
    expect(bytes.length).toBe(10 + bytes.readUInt16LE(8) + 4 * 32 * 32);
    const [line] = records((await lineage("embed", "--model", model, "a film")).stdout);
    expect(line!["vector"]).toHaveLength(32);
  });

  it("find a passage", async () => {
    await mkdir(place("notes"));
    await writeFile(path.join(place("notes"), "a.txt"), "the red dog\n\nthe old song\n");
    const { stdout } = await lineage("search", place("notes"), "the old song", "--model", model, "--json");
    expect(records(stdout)[0]).toMatchObject({ hits: [{ file: "a.txt" }], index: { files: 1 } });
  });

  it("guess a word", async () => {
    const { stdout } = await lineage(
      "fill-mask",
      "the [MASK] was good",
      "--model",
      model,
      "--top-k",
      "3",
      "--json",
    );
    expect(records(stdout)[0]!["masks"]).toMatchObject([[{}, {}, {}]]);
  });
});

describe("lineage finetune refuses in one sentence:", () => {
  const refused = async (args: string[], message: string | RegExp) => {
    const { stderr, status } = await lineage(...args);
    expect(stderr.trim().split("\n").at(-1)).toMatch(/^error: /);
    expect(stderr).toMatch(message);
    expect(status).toBe(1);
  };
  const start = (data: string, ...more: string[]) => [
    ...["finetune", "--model", model, "--task", "classify", "--data", data, "--out", place("refused")],
    ...more,
  ];

  it("what is missing", async () => {
    await refused(["finetune", "--model", model], "finetune needs --task, such as --task classify");
    await refused(start(place("nowhere.csv")), "there is no such file");
    await refused(
      start(place("dev.csv"), "--label-column", "mark"),
      'has no column named "mark"; it has sentence, label',
    );
  });

  it("broken quoting, with the row", async () => {
    await writeFile(place("broken.csv"), 'text,label\na,kind\n"b,unkind\n');
    await refused(start(place("broken.csv")), "row 3 opens a quote that is never closed");
  });

  it("a second run in the same folder, and a model without a head to predict with", async () => {
    await refused(
      ["finetune", "--model", model, "--task", "classify", "--data", place("train.tsv"), "--out", run],
      "already holds a training run",
    );
    await refused(["predict", "--model", model, "a film"], "is not fine-tuned for a task");
  });
});
