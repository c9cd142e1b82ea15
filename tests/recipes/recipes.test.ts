import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const recipe = (name: string) => fileURLToPath(new URL(`../../dist/recipes/${name}.js`, import.meta.url));

describe("The recipes run on the embedded stories, in their smoke mode", () => {
  it.each([
    ["bert", "pretraining.svg", ["from scratch", "pretrained"]],
    ["roberta", "loss.svg", ["BERT: NSP, static masks", "RoBERTa: no NSP, dynamic masks"]],
    ["albert", "loss.svg", ["BERT, 128 wide", "ALBERT, 256 wide"]],
    ["deberta", "loss.svg", ["absolute positions, as BERT", "disentangled, mask decoder"]],
    ["electra", "pretraining.svg", ["masked LM", "ELECTRA"]],
    ["gpt2", "loss.svg", ["untrained", "GPT-2, step 8"]],
    ["guanaco", "loss.svg", ["LoRA, float32", "QLoRA, NF4, double"]],
    ["med-palm", "loss.svg", ["three examples", "soft prompt, self-consistency", "whole network"]],
    ["med-palm2", "loss.svg", ["self-consistency", "ensemble refinement"]],
    ["gpt3", "shots.svg", ["tiny,", "small,", "look up"]],
    ["instructgpt", "instructgpt.svg", ["SFT", "PPO", "PPO-ptx"]],
    ["llama2-chat", "llama2-chat.svg", ["rejection sampling", "then PPO", "with ghost attention"]],
    ["llama", "loss.svg", ["after 8 steps"]],
    ["palm", "spike.svg", ["parallel,", "serial,", "poison, skipped"]],
    ["palm2", "isoflop.svg", ["parametric"]],
    ["quantization", "divergence.svg", ["8 bits, blocks of 32", "NF4, blocks of 64"]],
    ["u-palm", "loss.svg", ["causal model", "causal, 4 steps more", "UL2R, 4 steps more"]],
    ["unilm", "loss.svg", ["from scratch", "pretrained"]],
    ["xlm", "alignment.svg", ["MLM", "MLM \\+ TLM"]],
    ["alpaca", "loss.svg", ["nothing", "seed tasks and grown ones"]],
    ["flan-palm", "loss.svg", ["1 task", "3 tasks"]],
    ["koala", "loss.svg", ["all, without markers", "the good ones alone"]],
    ["vicuna", "positions.svg", ["the assistant alone", "all turns", "positions divided by 4, after"]],
    ["xlnet", "loss.svg", ["without memory", "with memory"]],
  ])("%s", { timeout: 240_000 }, async (name, picture, rows) => {
    const out = await mkdtemp(path.join(os.tmpdir(), "lineage-recipe-"));
    try {
      const run = spawnSync(process.execPath, [recipe(name), "--smoke", "--data", "stories", "--out", out], {
        encoding: "utf8",
      });
      expect(run.stderr).not.toMatch(/Error/);
      expect(run.status).toBe(0);
      for (const row of rows) expect(run.stdout).toMatch(new RegExp(`^${row} .*\\d`, "m"));
      expect(existsSync(path.join(out, picture))).toBe(true);
      expect(readFileSync(path.join(out, picture), "utf8")).toMatch(/<path d="M/);
    } finally {
      await rm(out, { recursive: true });
    }
  });
});

it("a recipe says what it takes, and refuses data that are not there", () => {
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [recipe("gpt2"), ...args], { encoding: "utf8" });
  expect(run("--help")).toMatchObject({ status: 0, stdout: expect.stringContaining("--scale X") });
  for (const [args, message] of [
    [["--data", "/no/such/folder"], "error: there is no folder /no/such/folder"],
    [["--nonsense"], "error: Unknown option '--nonsense'"],
    [["--scale", "much"], "error: --scale must be a number above 0, not much"],
  ] as const)
    expect(run(...args)).toMatchObject({ status: 1, stderr: expect.stringContaining(message) });
});
