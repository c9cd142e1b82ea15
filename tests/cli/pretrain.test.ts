import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { stories } from "../../src/data/index.js";
import { lineage } from "../support/cli.js";

const root = mkdtempSync(path.join(os.tmpdir(), "pretrain-"));
afterAll(() => {
  rmSync(root, { recursive: true, force: true });
});
const at = (name: string) => path.join(root, name);
const small = ["--layers", "1", "--hidden", "16", "--heads", "2", "--context", "32", "--batch", "4"];
const lines = (text: string) =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

const text = [...stories({ seed: 1, count: 40 })].join("\n\n");
writeFileSync(at("a.en"), text);
writeFileSync(at("a.ne"), [...text].reverse().join(""));
const sentences = Array.from({ length: 40 }, (_, index) => `The cat saw ${index} birds.`);
writeFileSync(at("b.en"), sentences.join("\n"));
writeFileSync(at("b.ne"), sentences.map((sentence) => [...sentence].reverse().join("")).join("\n"));

describe("lineage pretrain", () => {
  it("pretrains XLM on two languages and their translations, for programs", async () => {
    const { status, stdout, stderr } = await lineage(
      ...["pretrain", "--model", "xlm", "--out", at("xlm"), "--json", ...small],
      ...["--data", `en=${at("a.en")}`, "--data", `ne=${at("a.ne")}`],
      ...["--parallel", `en=${at("b.en")},ne=${at("b.ne")}`],
      ...["--steps", "4", "--eval-every", "2", "--vocab-size", "400"],
    );
    expect(stderr).toBe("");
    expect(status).toBe(0);
    const said = lines(stdout);
    expect(said[0]!["message"]).toMatch(/in en, ne and 38 translated sentences; vocabulary 400/);
    expect(said.filter((line) => line["secondsLeft"] !== undefined).map((line) => line["step"])).toEqual([
      1, 2, 3, 4,
    ]);
    expect(said.at(-1)).toMatchObject({ outcome: "finished", step: 4 });
    for (const file of ["config.json", "model.safetensors", "tokenizer.json", "loss.svg", "metrics.jsonl"])
      expect(existsSync(path.join(at("xlm"), file)), file).toBe(true);
  });

  it("tells the parts of ELECTRA's loss apart, in training and on held-out text", async () => {
    const { status, stdout, stderr } = await lineage(
      ...["pretrain", "--model", "electra", "--out", at("electra"), "--json", ...small, "--data", at("a.en")],
      ...["--steps", "2", "--eval-every", "2", "--vocab-size", "400"],
    );
    expect(stderr).toBe("");
    expect(status).toBe(0);
    const said = lines(stdout);
    const stepped = said.filter((line) => line["secondsLeft"] !== undefined);
    const evaluated = said.filter((line) => line["validationLoss"] !== undefined);
    expect([stepped.length, evaluated.length]).toEqual([2, 1]);
    for (const line of [...stepped, ...evaluated]) {
      const { loss = line["validationLoss"], maskedLm, replacedTokens } = line as Record<string, number>;
      expect(maskedLm! + 50 * replacedTokens!).toBeCloseTo(loss as number, 4);
    }
    expect(evaluated[0]!["message"]).toMatch(/, maskedLm 5\.\d{4}, replacedTokens 0\.\d{4}$/);
  });

  it.each([
    [["--data", "stories"], "pretrain needs --model, one of albert, bert"],
    [["--model", "bert"], "pretrain needs --data FILE"],
    [["--model", "bert", "--data", at("none.txt")], "none.txt"],
    [["--model", "bert", "--data", at("a.en"), "--parallel", "en=a,ne=b"], "only xlm learns from --parallel"],
    [
      ["--model", "xlm", "--data", `en=${at("a.en")}`, "--parallel", "en=a,fr=b"],
      "--parallel names the language fr, which has no text",
    ],
    [
      ["--model", "xlm", "--data", `en=${at("a.en")}`, "--data", at("a.ne")],
      "names no language, but other files do",
    ],
    [["--model", "bert", "--data", at("a.en"), "--layers", "0"], "layers"],
  ])("says what is wrong with %j", async (options, message) => {
    const { status, stderr } = await lineage("pretrain", "--out", at("wrong"), ...options);
    expect(stderr).toMatch(/^error: /);
    expect(stderr).toContain(message);
    expect(status).toBe(1);
  });
});
