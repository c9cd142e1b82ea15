import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { answerRewards, openRewardModel } from "../../src/alignment/index.js";
import { saveModel } from "../../src/checkpoints/index.js";
import { type ArenaGame, inBothOrders, rewardJudge, runArena } from "../../src/evaluation/index.js";
import { Llama, llamaConfig, systems } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { lineage } from "../support/cli.js";

const root = mkdtempSync(path.join(os.tmpdir(), "lineage-arena-"));
afterAll(() => {
  rmSync(root, { recursive: true });
});
const folder = (name: string): string => path.join(root, name);

const runtime = createRuntime();
const tokenizer = trainByteLevelBpe(["the cat sat on the mat A B"], { vocabSize: 270 });
beforeAll(async () => {
  for (const [index, name] of ["one", "other", "judge"].entries()) {
    const model = new Llama(
      llamaConfig({
        vocabSize: tokenizer.vocabSize,
        hiddenSize: 32,
        numLayers: 1,
        numHeads: 2,
        contextLength: 512,
      }),
    );
    using weights = Weights.initialize(runtime, model, index);
    await saveModel(folder(name), { system: systems.llama, model, weights, tokenizer });
  }
  writeFileSync(folder("prompts.txt"), "the cat\nthe mat\n\non the\n");
});

describe("an arena", () => {
  const players = ["long", "short"].map((name) => ({
    name,
    answer: (prompt: string) => Promise.resolve(name === "long" ? `${prompt}!!` : prompt),
  }));
  const byLength = rewardJudge((_, answer) => Promise.resolve(answer.length));

  it("lets every pair meet over every prompt, whichever answer is shown first", async () => {
    const seen: boolean[] = [];
    const games = await runArena(
      players,
      ["a", "b", "c", "d", "e", "f", "g", "h"],
      (prompt, first, second) => {
        seen.push(first.length > second.length);
        return byLength(prompt, first, second);
      },
    );
    expect(games.map(({ winner }) => winner)).toEqual(Array.from({ length: 8 }, () => "a"));
    expect(new Set(seen).size).toBe(2);
    await expect(runArena(players.slice(1), ["a"], byLength)).rejects.toThrow("at least two");
    await expect(runArena([players[0]!, players[0]!], ["a"], byLength)).rejects.toThrow("same name");
  });

  it("counts a judge who always takes the first answer as undecided", async () => {
    const judge = inBothOrders(() => Promise.resolve("a"));
    expect(await judge("?", "x", "y")).toBe("tie");
    expect(await inBothOrders(byLength)("?", "x", "yy")).toBe("b");
  });

  it("asks for nothing again that is known", async () => {
    const known: { answers: { player: string; prompt: number; text: string }[]; games: ArenaGame[] } = {
      answers: [],
      games: [],
    };
    const run = (judge: typeof byLength) =>
      runArena(players, ["a", "b"], judge, {
        known,
        answered: (answer) => void known.answers.push(answer),
        judged: (game) => void known.games.push(game),
      });
    const first = await run(byLength);
    expect(known.answers.length).toBe(4);
    expect(await run(() => Promise.reject(new Error("asked again")))).toEqual(first);
  });

  it("runs on the command line, goes on where it was stopped, and refuses another arena's folder", async () => {
    const out = folder("out");
    const args = [
      ...["arena", "--model", folder("one"), "--model", folder("other"), "--prompts", folder("prompts.txt")],
      ...["--judge", folder("judge"), "--out", out, "--max-new-tokens", "4"],
    ];
    const made = await lineage(...args, "--json");
    expect(made.status, made.stderr).toBe(0);
    const result = JSON.parse(made.stdout) as {
      games: number;
      players: { wins: number; losses: number; ties: number; strength: number }[];
    };
    expect(result.games).toBe(3);
    for (const { wins, losses, ties } of result.players) expect(wins + losses + ties).toBe(3);
    expect(result.players[0]!.strength + result.players[1]!.strength).toBeCloseTo(0, 8);
    expect(existsSync(path.join(out, "arena.svg"))).toBe(true);
    const games = path.join(out, "games.jsonl");
    const whole = readFileSync(games, "utf8");
    // The last game was being written when the run was stopped.
    writeFileSync(games, whole.slice(0, -10));
    const again = await lineage(...args, "--json");
    expect(again.status, again.stderr).toBe(0);
    expect(readFileSync(games, "utf8")).toBe(whole);
    expect(JSON.parse(again.stdout)).toEqual(JSON.parse(made.stdout));
    const other = await lineage(...args, "--seed", "1");
    expect(other.stderr).toContain("holds an arena of other models");
    const alone = await lineage(
      "arena",
      "--model",
      folder("one"),
      "--prompts",
      folder("prompts.txt"),
      "--out",
      folder("no"),
    );
    expect(alone.stderr).toContain("at least two models");
  });

  it("takes a reward model as judge, which is asked as it was trained", async () => {
    const ranked = ["the cat", "the mat", "on the", "A", "B", "sat"].map((prompt) => ({
      prompt,
      chosen: " sat on the mat",
      rejected: " B A B",
    }));
    writeFileSync(
      folder("ranked.jsonl"),
      Array.from({ length: 4 }, () => ranked.map((row) => JSON.stringify(row)).join("\n")).join("\n"),
    );
    const trained = await lineage(
      ...["align", "reward", "--model", folder("judge"), "--data", folder("ranked.jsonl")],
      ...["--out", folder("reward"), "--learning-rate", "1e-2", "--batch", "4", "--json"],
    );
    expect(trained.status, trained.stderr).toBe(0);

    const out = folder("by-reward");
    const args = [
      ...["arena", "--model", folder("one"), "--model", folder("other"), "--prompts", folder("prompts.txt")],
      ...["--out", out, "--max-new-tokens", "4", "--json"],
    ];
    // Neither a model without a head, nor a place with nothing in it, is one; the folder is free for the right one.
    const headless = await lineage(...args, "--judge-reward", folder("judge"));
    expect(headless.status).toBe(1);
    expect(headless.stderr).toMatch(/judge is no reward model; lineage align reward trains one/);
    const nothing = await lineage(...args, "--judge-reward", folder("nowhere"));
    expect(nothing.status).toBe(1);
    expect(nothing.stderr).toContain("nowhere");
    const two = await lineage(...args, "--judge", "person", "--judge-reward", folder("reward"));
    expect(two.stderr).toContain("give --judge or --judge-reward, not both");
    expect(existsSync(out)).toBe(false);

    const made = await lineage(...args, "--judge-reward", folder("reward"));
    expect(made.status, made.stderr).toBe(0);
    expect(await lineage(...args, "--judge-reward", folder("reward"))).toEqual(made);
    const linesOf = <T>(name: string): T[] =>
      readFileSync(path.join(out, name), "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as T);
    const answers = linesOf<{ player: string; prompt: number; text: string }>("answers.jsonl");
    const games = linesOf<ArenaGame>("games.jsonl");
    const prompts = ["the cat", "the mat", "on the"];
    using model = await openRewardModel(runtime, folder("reward"));
    const rewardOf = async (player: string, prompt: number): Promise<number> => {
      const { text } = answers.find((answer) => answer.player === player && answer.prompt === prompt)!;
      const ids = [
        ...tokenizer.encode(prompts[prompt]!),
        ...tokenizer.encode(text, { parseSpecial: false }),
        tokenizer.endOfTextId!,
      ];
      return (await model.rewards([ids]))[0]!;
    };
    expect(games.length).toBe(3);
    for (const { a, b, prompt, winner } of games) {
      const gap = (await rewardOf(a, prompt)) - (await rewardOf(b, prompt));
      expect(winner).toBe(gap === 0 ? "tie" : gap > 0 ? "a" : "b");
    }
    expect(games.some(({ winner }) => winner !== "tie")).toBe(true);
  });

  it("rewards an answer of nothing, and refuses texts that a reward model has no room for", async () => {
    using model = await openRewardModel(runtime, folder("reward"));
    const reward = answerRewards(model);
    const [end] = await model.rewards([[...tokenizer.encode("the cat"), tokenizer.endOfTextId!]]);
    expect(await reward("the cat", "")).toBe(end);
    await expect(reward("the cat", "B".repeat(600))).rejects.toThrow(/at most 512/);
  });
});
