import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { stories } from "../../src/data/index.js";
import { lineage } from "../support/cli.js";

let folder = "";
const place = (name: string) => path.join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-ramp-"));
  await writeFile(place("text.txt"), [...stories({ seed: 1, count: 40 })].join("\n\n"));
});
afterAll(() => rm(folder, { recursive: true }));

const sizes = ["--hidden", "16", "--layers", "1", "--heads", "2", "--context", "32", "--vocab-size", "400"];

describe("a batch that grows, from the command line", () => {
  it.each([
    ["train", ["--model", "gpt3"]],
    ["pretrain", ["--model", "bert"]],
  ])("of %s: shows and writes down its micro-batches and all tokens so far", async (command, model) => {
    const out = place(command);
    const { stdout, stderr, status } = await lineage(
      ...[command, ...model, ...sizes, "--data", place("text.txt"), "--out", out, "--json"],
      ...["--batch", "2", "--steps", "6", "--batch-ramp", "2,4@2,8@4", "--skip-spikes", "8"],
    );
    expect(stderr).toBe("");
    expect(status).toBe(0);
    const lines = (text: string) =>
      text
        .trim()
        .split("\n")
        .map(
          (line) =>
            JSON.parse(line) as {
              step?: number;
              loss?: number;
              microBatches?: number;
              tokens?: number;
              tokensSeen?: number;
            },
        );
    const written = lines(await readFile(path.join(out, "metrics.jsonl"), "utf8")).filter(
      ({ loss }) => loss !== undefined,
    );
    expect(written.map(({ microBatches = 1 }) => microBatches)).toEqual([1, 1, 2, 2, 4, 4]);
    let seen = 0;
    for (const { tokens, tokensSeen } of written) expect(tokensSeen).toBe((seen += tokens!));
    const shown = lines(stdout).filter(({ tokensSeen }) => tokensSeen !== undefined);
    expect(shown.at(-1)).toMatchObject({ step: 6, microBatches: 4, tokensSeen: seen });
  });

  it.each([
    [
      ["--batch-ramp", "3,6@2"],
      /error: the batch ramp 3,6@2: 3 rows are no multiple of the 2 rows of a micro-batch; write /,
    ],
    [
      ["--batch-ramp", "fast"],
      /error: the batch ramp fast: it is not a list of rows and steps; write 16,32@500,64@1150 /,
    ],
    [["--batch-ramp", "2,4@2", "--accumulate", "2"], /leave --accumulate out/],
    [["--skip-spikes", "-1"], /--skip-spikes/],
  ])("refuses %j in words", async (options, message) => {
    const { stderr, status } = await lineage(
      ...[
        "train",
        ...sizes,
        "--data",
        place("text.txt"),
        "--out",
        place("refused"),
        "--batch",
        "2",
        ...options,
      ],
    );
    expect(status).toBe(1);
    expect(stderr).toMatch(message);
  });
});
