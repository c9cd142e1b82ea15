import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { lineage } from "../support/cli.js";

let root = "";
beforeAll(async () => {
  root = await mkdtemp(path.join(os.tmpdir(), "lineage-pairs-"));
  const lines = Array.from({ length: 60 }, (_, line) => `word${line % 7} word${line % 5}`);
  await writeFile(path.join(root, "train.de"), `${lines.join("\n")}\n`);
  await writeFile(
    path.join(root, "train.en"),
    `${lines.map((line) => line.replaceAll("word", "Wort")).join("\n")}\n`,
  );
});
afterAll(() => rm(root, { recursive: true, force: true }));
const at = (name: string) => path.join(root, name);
const small = ["--hidden", "16", "--layers", "1", "--heads", "2", "--context", "32", "--threads", "1"];

describe("pairs of texts on the command line", () => {
  it.each([
    ["t5", 0, "holds the best checkpoint"],
    ["transformer", 1, "holds the 256 bytes"],
  ])("lets the tokenizer of %s say how small a vocabulary may be", async (model, status, said) => {
    const files = ["--data", at("train.de"), "--targets", at("train.en"), "--vocab-size", "140"];
    const run = ["--steps", "1", "--eval-rows", "1", "--samples", "0", "--out", at(`small-${model}`)];
    const result = await lineage("train", "--model", model, ...files, ...small, ...run);
    expect(result.stderr).toContain(said);
    expect(result.status).toBe(status);
  });

  it("trains a Transformer from two files, goes on with it, and fine-tunes what came out", async () => {
    const files = ["--data", at("train.de"), "--targets", at("train.en")];
    const out = at("run");
    const first = await lineage(
      "train",
      "--model",
      "transformer",
      ...files,
      ...small,
      "--vocab-size",
      "280",
      "--steps",
      "6",
      "--eval-every",
      "3",
      "--eval-rows",
      "4",
      "--samples",
      "1",
      "--average-last",
      "2",
      "--out",
      out,
      "--json",
    );
    expect(first.stderr).toBe("");
    expect(first.status).toBe(0);
    const events = first.stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    const samples = events.flatMap((event) => (event["samples"] as Record<string, string>[]) ?? []);
    expect(samples).toHaveLength(2);
    expect(samples[0]!["reference"]).toBe(samples[0]!["source"]!.replaceAll("word", "Wort"));
    const last = events.at(-1)!;
    expect(last["outcome"]).toBe("finished");
    expect(Object.keys(last["metrics"] as object)).toEqual([
      "loss",
      "bleu",
      "chrf",
      "rouge1",
      "rouge2",
      "rougeL",
      "exactMatch",
      "tokenF1",
    ]);
    expect((last["signatures"] as Record<string, string>)["bleu"]).toContain("tok:13a");
    const run = JSON.parse(await readFile(path.join(out, "run.json"), "utf8")) as Record<string, unknown>;
    expect(run).toMatchObject({ task: "text", system: "transformer", sizes: { hiddenSize: 16 } });
    const again = await lineage("train", "--resume", "--out", out, "--threads", "1");
    expect(again.stderr).toContain("done");
    const tuned = await lineage(
      "finetune",
      "--task",
      "text",
      "--model",
      out,
      ...files,
      "--steps",
      "2",
      "--eval-rows",
      "2",
      "--out",
      at("tuned"),
      "--threads",
      "1",
    );
    expect(tuned.status).toBe(0);
    expect(tuned.stderr).toContain("rougeL");
    expect(tuned.stderr).toContain("  reference  ");
  });

  it("refuses options of another kind of run, and a model of another kind, in words", async () => {
    const data = ["--data", at("train.de"), "--targets", at("train.en")];
    const fails = async (...args: string[]) => {
      const { status, stderr } = await lineage(...args);
      expect(status).toBe(1);
      return stderr;
    };
    expect(await fails("train", "--model", "t5", ...data, "--packing", "documents")).toContain(
      "T5 on pairs of texts has no --packing; leave it out",
    );
    expect(await fails("train", "--model", "gpt2", "--data", at("train.de"), "--targets", "x")).toContain(
      "--model gpt2 has no --targets; leave it out",
    );
    expect(
      await fails("finetune", "--task", "text", "--model", at("run"), ...data, "--label-column", "x"),
    ).toContain("--task text has no --label-column; leave it out");
    await writeFile(at("short.en"), "one\n");
    expect(
      await fails(
        "train",
        "--model",
        "bart",
        "--data",
        at("train.de"),
        "--targets",
        at("short.en"),
        "--out",
        at("no"),
      ),
    ).toMatch(/train\.de has 60 lines and .*short\.en 1: line i of one belongs to line i of the other/);
  });
});
