import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openRewardModel } from "../../src/alignment/index.js";
import { saveModel } from "../../src/checkpoints/index.js";
import { Llama, llamaConfig, systems } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { lineage } from "../support/cli.js";

const runtime = createRuntime();
const root = mkdtempSync(path.join(os.tmpdir(), "lineage-align-"));
const place = (name: string): string => path.join(root, name);
afterAll(() => {
  rmSync(root, { recursive: true });
});

const tokenizer = trainByteLevelBpe(["the cat sat on the mat", "the dog ran to the cat"], { vocabSize: 280 });
const animals = ["cat", "dog", "mat", "cow", "hen", "pig"];
const rows = (make: (animal: string, index: number) => object): string =>
  Array.from({ length: 24 }, (_, index) => JSON.stringify(make(animals[index % 6]! + index, index))).join(
    "\n",
  );

beforeAll(async () => {
  const model = new Llama(
    llamaConfig({
      contextLength: 64,
      numLayers: 1,
      numHeads: 2,
      hiddenSize: 16,
      vocabSize: tokenizer.vocabSize,
    }),
  );
  using weights = Weights.initialize(runtime, model, 1);
  await saveModel(place("base"), { system: systems.llama, model, weights, tokenizer });
  writeFileSync(
    place("pairs.jsonl"),
    rows((animal) => ({ prompt: `the ${animal}`, chosen: " sat on the mat", rejected: " ran to the dog" })),
  );
  writeFileSync(
    place("thumbs.jsonl"),
    rows((animal, index) => ({ prompt: `the ${animal}`, completion: " sat", label: index % 2 === 0 })),
  );
  writeFileSync(
    place("ranked.jsonl"),
    rows((animal) => ({
      prompt: `the ${animal}`,
      chosen: " sat on the mat",
      rejected: " ran to the dog",
      chosen_score: 5,
      rejected_score: 2,
    })),
  );
  writeFileSync(
    place("rule.mjs"),
    "export default (samples) => samples.map(({ text, row }) => (text.includes('t') ? 1 : 0) + 0 * row.prompt.length);",
  );
  writeFileSync(
    place("broken.mjs"),
    "export default (samples) => samples.map(({ row }) => row.none.length);",
  );
  writeFileSync(place("nan.mjs"), "export default (samples) => samples.map(({ text }) => 0 / 0);");
});

const align = (method: string, ...args: string[]) =>
  lineage("align", method, "--model", place("base"), "--threads", "1", "--json", ...args);
const last = (stdout: string) =>
  JSON.parse(stdout.trim().split("\n").at(-1)!) as { outcome: string; metrics: Record<string, number> };

describe("lineage align sft", () => {
  it("is finetune --task chat: the same losses, the same words but for its name", async () => {
    const answer = (animal: string) => ({ instruction: `the ${animal}`, output: "sat on the mat" });
    writeFileSync(place("alpaca.jsonl"), rows(answer));
    // Shorter than ChatML, whose marks alone would fill this model's context.
    writeFileSync(place("short.jinja"), "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}");
    const data = ["--data", place("alpaca.jsonl"), "--template", place("short.jinja")];
    const options = [...data, "--steps", "2", "--max-tokens", "128", "--rank", "2"];
    const sft = await align("sft", ...options, "--out", place("sft"));
    const chat = await lineage(
      ...["finetune", "--task", "chat", "--model", place("base"), "--threads", "1", "--json", ...options],
      ...["--out", place("chat")],
    );
    expect(sft.stderr).toBe("");
    expect(sft.status).toBe(0);
    const metrics = (run: string) => readFileSync(path.join(place(run), "metrics.jsonl"), "utf8");
    const losses = (run: string) =>
      metrics(run)
        .trim()
        .split("\n")
        .map((line) => (JSON.parse(line) as { loss?: number }).loss);
    expect(losses("sft")).toEqual(losses("chat"));
    expect(sft.stdout.replaceAll(place("sft"), "OUT").split("\n")[0]).toBe(
      chat.stdout.replaceAll(place("chat"), "OUT").split("\n")[0],
    );
    const resumed = await lineage("align", "sft", "--resume", "--out", place("sft"), "--json");
    expect(resumed.status).toBe(0);
    const nothing = await lineage("align", "sft", "--model", place("base"));
    expect(nothing.stderr).toMatch(/align sft needs --data, such as --data FILE/);
  });
});

describe("lineage align dpo", () => {
  it.each(["dpo", "ipo", "hinge", "robust", "simpo", "cpo", "orpo"])("learns pairs by %s", async (loss) => {
    const out = place(`dpo-${loss}`);
    const { stdout, stderr, status } = await align(
      "dpo",
      ...["--data", place("pairs.jsonl"), "--loss", loss, "--adapter", "none", "--out", out],
      ...["--learning-rate", "1e-2", "--epochs", "3", "--batch", "4", "--warmup", "0"],
    );
    expect(stderr).toBe("");
    expect(status).toBe(0);
    const { outcome, metrics } = last(stdout);
    expect(outcome).toBe("finished");
    expect(metrics["accuracy"]).toBe(1);
    expect(metrics["chosen"]).toBeGreaterThan(metrics["rejected"]!);
    expect(existsSync(path.join(out, "model.safetensors"))).toBe(true);
    expect(existsSync(path.join(out, "reference.json"))).toBe(!["simpo", "cpo", "orpo"].includes(loss));
  });

  it("trains an adapter that generate takes, and thumbs by kto", async () => {
    const pairs = place("adapter");
    const run = await align(
      "dpo",
      "--data",
      place("pairs.jsonl"),
      "--out",
      pairs,
      "--steps",
      "2",
      "--batch",
      "4",
    );
    expect(run.stderr).toBe("");
    const first = readFileSync(path.join(pairs, "metrics.jsonl"), "utf8").split("\n")[0]!;
    expect((JSON.parse(first) as { loss: number }).loss).toBeCloseTo(Math.log(2), 4);
    const written = await lineage(
      ...[
        "generate",
        "--model",
        place("base"),
        "--adapter",
        pairs,
        "--prompt",
        "the cat",
        "--max-new-tokens",
        "3",
      ],
      "--no-prepared",
    );
    expect(written.status).toBe(0);
    const thumbs = await align(
      "dpo",
      "--data",
      place("thumbs.jsonl"),
      "--loss",
      "kto",
      "--out",
      place("kto"),
    );
    expect(thumbs.stderr).toBe("");
    expect(last(thumbs.stdout).metrics["kl"]).toBeDefined();
  });

  it("names the row where nothing is preferred", async () => {
    const file = place("same.jsonl");
    writeFileSync(
      file,
      rows((animal, index) => ({ prompt: animal, chosen: " a", rejected: index === 6 ? " a" : " b" })),
    );
    const { stderr, status } = await align("dpo", "--data", file, "--out", place("same"));
    expect(status).toBe(1);
    expect(stderr).toMatch(/row 7/);
    expect(stderr).toMatch(/same/);
  });
});

describe("lineage align reward, ppo, grpo and rejection", () => {
  it("learns a reward model whose best answers score 0 on average, and a policy from it", async () => {
    const reward = place("reward");
    const { stdout, stderr } = await align(
      "reward",
      ...["--data", place("ranked.jsonl"), "--out", reward, "--learning-rate", "1e-2", "--epochs", "4"],
      ...["--batch", "4", "--warmup", "0", "--margin", "0.1"],
    );
    expect(stderr).toBe("");
    expect(last(stdout).metrics["accuracy"]).toBe(1);
    const settings = JSON.parse(readFileSync(path.join(reward, "reward.json"), "utf8")) as Record<
      string,
      unknown
    >;
    expect(settings).toMatchObject({ accuracy: 1, accuracyByMargin: [{ accuracy: 1 }] });
    const config = JSON.parse(readFileSync(path.join(reward, "config.json"), "utf8")) as Record<
      string,
      unknown
    >;
    expect(config["architectures"]).toEqual(["LlamaForSequenceClassification"]);
    using model = await openRewardModel(runtime, reward);
    const end = tokenizer.endOfTextId === undefined ? [] : [tokenizer.endOfTextId];
    const text = (answer: string) => [...tokenizer.encode("the cat0"), ...tokenizer.encode(answer), ...end];
    const [good, bad] = await model.rewards([text(" sat on the mat"), text(" ran to the dog")]);
    expect(good).toBeGreaterThan(bad!);

    const ppo = await align(
      "ppo",
      ...["--data", place("pairs.jsonl"), "--reward", reward, "--safety", reward, "--out", place("ppo")],
      ...["--rounds", "2", "--prompts", "4", "--batch", "4", "--max-new-tokens", "6", "--adapter", "none"],
    );
    expect(ppo.stderr).toBe("");
    expect(last(ppo.stdout).metrics["kl"]).toBeDefined();
    expect(existsSync(path.join(place("ppo"), "model.safetensors"))).toBe(true);
  });

  it.each(["ppo", "grpo", "rejection"])("learns by %s from a rule, with an adapter", async (method) => {
    const { stdout, stderr } = await align(
      method,
      ...["--data", place("pairs.jsonl"), "--rule", place("rule.mjs"), "--out", place(`rule-${method}`)],
      ...["--rounds", "2", "--prompts", "4", "--samples", "2", "--max-new-tokens", "6"],
    );
    expect(stderr).toBe("");
    expect(last(stdout)).toMatchObject({ outcome: "finished" });
    expect(stdout).toContain('"round":2');
    expect(existsSync(path.join(place(`rule-${method}`), "adapter_model.safetensors"))).toBe(true);
  });

  it.each([
    [["--rule", place("nan.mjs"), "--max-new-tokens", "6"], /the reward of .* is NaN/],
    [["--rule", place("broken.mjs"), "--max-new-tokens", "6"], /the reward failed: .*undefined/],
    [[], /nothing says what is good/],
    [
      ["--rule", place("rule.mjs"), "--max-new-tokens", "64"],
      /no room for a prompt in the model's context of 64/,
    ],
    [["--rule", place("none.mjs")], /there is no rule/],
  ])("says what is wrong with %j", async (args, words) => {
    const { stderr, status } = await align(
      "ppo",
      ...["--data", place("pairs.jsonl"), "--out", place(`wrong-${args.length}-${String(words).length}`)],
      ...args,
    );
    expect(status).toBe(1);
    expect(stderr).toMatch(words);
  });
});

describe("the help of lineage align", () => {
  it("teaches each method with its options, their defaults and examples", async () => {
    const { stdout } = await lineage("align", "--help");
    for (const method of ["reward", "dpo", "ppo", "grpo", "rejection"]) {
      expect(stdout).toContain(`  ${method} `);
      const help = await lineage("align", method, "--help");
      expect(help.status).toBe(0);
      expect(help.stdout).toContain("Examples:");
      // Each option with a value says what happens without it.
      const options = help.stdout.split(/\n {2}(?=--)/).slice(1);
      for (const one of options) if (/^--[a-z-]+ </.test(one)) expect(one).toMatch(/\((default|required)/);
    }
  });
});
