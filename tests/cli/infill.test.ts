import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { stories } from "../../src/data/index.js";
import { lineage } from "../support/cli.js";

const root = mkdtempSync(path.join(os.tmpdir(), "infill-"));
afterAll(() => {
  rmSync(root, { recursive: true, force: true });
});
const at = (name: string) => path.join(root, name);
const few = ["--batch", "4", "--steps", "2", "--context", "32"];
const small = ["--layers", "1", "--hidden", "16", "--heads", "2", "--vocab-size", "400", ...few];
const texts = [...stories({ seed: 1, count: 40 })];

beforeAll(async () => {
  writeFileSync(at("text.txt"), texts.join("\n\n"));
  writeFileSync(at("documents.txt"), texts.join("</s>"));
  const rows = texts.map((text, index) => JSON.stringify({ text, tone: index % 2 === 0 ? "calm" : "wild" }));
  writeFileSync(at("marked.jsonl"), rows.join("\n"));
  const train = ["train", "--model", "palm", "--data", at("text.txt"), "--out", at("causal"), ...small];
  expect(await lineage(...train)).toMatchObject({ status: 0 });
});

describe("a causal model that goes on under UL2R, on the command line", () => {
  it("learns from documents that each have an objective of their own, and goes on", async () => {
    const documents = [
      "--data",
      at("documents.txt"),
      "--packing",
      "documents",
      "--objective",
      "ul2r",
      ...few,
    ];
    const run = [
      "train",
      "--base",
      at("causal"),
      ...documents,
      "--out",
      at("documents"),
      "--eval-every",
      "1",
    ];
    const result = await lineage(...run);
    expect(result).toMatchObject({ status: 0 });
    expect(result.stderr).toMatch(/\d+ documents, each with an objective of its own/);
    const further = await lineage("train", "--resume", "--out", at("documents"));
    expect(further).toMatchObject({ status: 0 });
  });

  it("fills gaps with an encoder-decoder that learned them", async () => {
    const letters = [..."abcdefghijklmnopqrstuvwxyz"];
    const triples = letters
      .slice(2)
      .map((last, index) => [letters[index]!, letters[index + 1]!, last] as const);
    const lines = (line: (triple: (typeof triples)[number]) => string) =>
      [...triples, ...triples].map((triple) => `${line(triple)}\n`).join("");
    writeFileSync(
      at("sources.txt"),
      lines(([first, , last]) => `${first} <extra_id_0> ${last}`),
    );
    writeFileSync(
      at("targets.txt"),
      lines(([, middle]) => `<extra_id_0> ${middle} <extra_id_1>`),
    );
    const size = [
      "--hidden",
      "32",
      "--layers",
      "1",
      "--heads",
      "2",
      "--context",
      "32",
      "--vocab-size",
      "160",
    ];
    const run = ["--steps", "150", "--eval-every", "150", "--batch", "16", "--learning-rate", "1e-2"];
    const pairs = ["--data", at("sources.txt"), "--targets", at("targets.txt"), "--samples", "0"];
    const out = ["--out", at("t5"), "--threads", "1"];
    expect(await lineage("train", "--model", "t5", ...pairs, ...size, ...run, ...out)).toMatchObject({
      status: 0,
    });
    const infill = ["infill", "--model", at("t5"), "--threads", "1", "--no-prepared"];
    for (const index of [0, 5, 16]) {
      const [first, middle, last] = triples[index]!;
      const filled = await lineage(...infill, `${first} <gap> ${last}`);
      expect(filled).toMatchObject({ status: 0, stdout: `${first} ${middle} ${last}\n` });
    }
    const long = await lineage(...infill, `${"a ".repeat(40)}<gap>`);
    expect(long).toMatchObject({ status: 1, stdout: "" });
    expect(long.stderr).toContain("and the model reads 32");
  });

  it("fills gaps, in words and for programs", async () => {
    const further = [
      "train",
      "--base",
      at("causal"),
      "--objective",
      "ul2r",
      "--data",
      at("text.txt"),
      ...few,
    ];
    const trained = await lineage(...further, "--out", at("ul2r"));
    expect(trained).toMatchObject({ status: 0 });
    expect(trained.stdout + trained.stderr).toContain("holds the model (best held-out loss");
    const infill = ["infill", "--model", at("ul2r"), "--max-gap-tokens", "3", "--no-prepared"];
    const plain = await lineage(...infill, "Once upon <gap> time <gap>.");
    expect(plain).toMatchObject({ status: 0, stderr: "" });
    expect(plain.stdout).toMatch(/^Once upon .*time .*\.\n$/s);
    const { stdout } = await lineage(...infill, "Once <gap> time", "--json", "--mode", "extreme");
    const { given, text, gaps } = JSON.parse(stdout) as { given: string; text: string; gaps: string[] };
    expect(given).toBe("Once <gap> time");
    expect(text).toBe(`Once${gaps[0]!} time`);
    for (const adapter of ["prompt", "prefix"]) {
      const soft = ["train", "--base", at("ul2r"), "--adapter", adapter, "--data", at("text.txt"), ...few];
      const refused = await lineage(...soft, "--out", at(`soft-${adapter}`));
      expect(refused).toMatchObject({ status: 1 });
      expect(refused.stderr).toContain("a prefix language model reads prompts both ways");
    }
  });

  it.each([
    [["infill", "--model", "MODEL", "no gap at all"], "the text has no gap; write <gap>"],
    [["infill", "--model", "MODEL", "a <gap>", "--mode", "odd"], "--mode"],
    [["infill", "--model", "MODEL", "a <gap>", "--max-gap-tokens", "0"], "--max-gap-tokens"],
    [["infill", "--model", "MODEL", "a <gap>"], "never learned to fill them"],
    [["generate", "--model", "MODEL", "--prompt", "a", "--control", "tone=calm"], "it learned none"],
    [
      ["train", "--base", "MODEL", "--objective", "ul2r", "--rank", "4", "--data", "x"],
      "--rank is for an adapter",
    ],
    [
      ["train", "--base", "MODEL", "--adapter", "none", "--hidden", "4", "--data", "x"],
      "a finished model has no --hidden",
    ],
    [["train", "--base", "MODEL", "--objective", "ul3", "--data", "TEXT"], 'the objective "ul3" is none'],
    [
      ["train", "--base", "MODEL", "--adapter", "lora", "--objective", "ul2r", "--data", "TEXT"],
      "--adapter none",
    ],
    [["train", "--data", "a=TEXT", "--data", "TEXT"], "names no language"],
    [["train", "--data", "TEXT", "--control-column", "tone"], "cannot be read as a table"],
    [["train", "--data", "MARKED", "--control-column", "mood"], "no mood"],
  ])("refuses in one sentence: %j", async (args, message) => {
    const places: Record<string, string> = {
      MODEL: at("causal"),
      TEXT: at("text.txt"),
      MARKED: at("marked.jsonl"),
    };
    const given = args.map((arg) => places[arg] ?? arg.replace("=TEXT", `=${at("text.txt")}`));
    const out = args[0] === "train" ? ["--out", at("refused")] : [];
    const { status, stderr } = await lineage(...given, ...out);
    expect(status).toBe(1);
    expect(stderr).toContain(message);
    expect(stderr.trim().split("\n")).toHaveLength(1);
  });
});

it("documents are marked by control tokens, and generate asks for them", async () => {
  const out = at("marked");
  const train = ["train", "--model", "palm", "--data", at("marked.jsonl"), "--control-column", "tone"];
  const { status, stdout, stderr } = await lineage(...train, "--control-rate", "0.5", "--out", out, ...small);
  expect(status).toBe(0);
  expect(stdout + stderr).toMatch(/\d+ of 40 documents begin with one of <\|tone:calm\|>, <\|tone:wild\|>/);
  const generate = [
    "generate",
    "--model",
    out,
    "--prompt",
    "Once",
    "--max-new-tokens",
    "2",
    "--json",
    "--no-prepared",
  ];
  const tokensOf = async (...more: string[]) =>
    (JSON.parse((await lineage(...generate, ...more)).stdout) as { promptTokens: number }).promptTokens;
  expect(await tokensOf("--control", "tone=wild")).toBe((await tokensOf()) + 1);
  expect((await lineage(...generate, "--control", "tone=loud")).stderr).toContain(
    "it has tone=calm, tone=wild",
  );
});
