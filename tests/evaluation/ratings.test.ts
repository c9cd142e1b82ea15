import { describe, expect, it } from "vitest";
import {
  type Game,
  bootstrap,
  bradleyTerry,
  elo,
  ensembleRefinement,
  selfConsistency,
} from "../../src/evaluation/index.js";
import { Reference } from "../support/reference.js";

const { games, strengths } = new Reference("bradley-terry").json("values.json") as {
  games: Game[];
  strengths: Record<string, number>;
};

describe("ratings of games", () => {
  it("are the strengths that a general optimiser finds likeliest", () => {
    const found = bradleyTerry(games, { ties: 0 });
    for (const [player, strength] of Object.entries(strengths))
      expect(found.get(player)).toBeCloseTo(strength, 5);
  });

  it("give two players the odds of their games", () => {
    const one = (winner: Game["winner"], count: number): Game[] =>
      Array.from({ length: count }, () => ({ a: "x", b: "y", winner }));
    const found = bradleyTerry([...one("a", 6), ...one("b", 2)], { ties: 0 });
    expect(found.get("x")! - found.get("y")!).toBeCloseTo(Math.log(3), 8);
    // A player who won every game: 3.05 points of 3.1 against 0.05.
    const whole = bradleyTerry(one("a", 3));
    expect(whole.get("x")! - whole.get("y")!).toBeCloseTo(Math.log(3.05 / 0.05), 6);
    expect(() => bradleyTerry(one("a", 3), { ties: 0 })).toThrow("lost every game");
    expect(() => bradleyTerry([{ a: "x", b: "x", winner: "a" }])).toThrow("plays against itself");
  });

  it("move by Elo's rule, and keep their sum", () => {
    const found = elo([{ a: "x", b: "y", winner: "a" }], { orders: 1 });
    expect(found.get("x")).toBe(1016);
    expect(found.get("y")).toBe(984);
    const next = elo(
      [
        { a: "x", b: "y", winner: "a" },
        { a: "y", b: "x", winner: "tie" },
      ],
      { orders: 1 },
    );
    expect(next.get("x")).toBeCloseTo(1016 - 32 * (1 / (1 + 10 ** (-32 / 400)) - 0.5), 8);
    expect([...elo(games).values()].reduce((sum, rating) => sum + rating, 0)).toBeCloseTo(4000, 6);
  });

  it("have an interval that narrows with more games", () => {
    const width = (times: number): number => {
      const many = Array.from({ length: times }, () => games).flat();
      const { low, high } = bootstrap(many, (drawn) => bradleyTerry(drawn)).get("a")!;
      expect(low).toBeLessThan(strengths["a"]!);
      expect(high).toBeGreaterThan(strengths["a"]!);
      return high - low;
    };
    // Of four times as many games, half the width.
    expect(width(4) / width(1)).toBeGreaterThan(0.35);
    expect(width(4) / width(1)).toBeLessThan(0.7);
  });
});

describe("several answers made one", () => {
  const extract = (text: string) => /is (\w+)/.exec(text)?.[1] ?? null;

  it("are what most samples say", async () => {
    const texts = ["it is no", "it is yes", "who knows", "it is yes"];
    const vote = await selfConsistency((_, sample) => Promise.resolve(texts[sample]!), "?", {
      samples: 4,
      extract,
    });
    expect(vote).toEqual({ texts, answers: ["no", "yes", null, "yes"], answer: "yes" });
    await expect(selfConsistency(() => Promise.resolve(""), "?", { samples: 0, extract })).rejects.toThrow(
      "at least 1",
    );
  });

  it("are written again after all reasonings, by samples of their own, and vote", async () => {
    const asked: [string, number][] = [];
    const write = (prompt: string, sample: number) => {
      asked.push([prompt, sample]);
      return Promise.resolve(
        sample < 2 ? `reason ${sample}, it is no` : `it is ${sample === 4 ? "no" : "yes"}`,
      );
    };
    const result = await ensembleRefinement(write, "Q?", { reasonings: 2, refinements: 3, extract });
    expect(result.answer).toBe("yes");
    expect(result.reasonings.answer).toBe("no");
    const again = "Answer 1: reason 0, it is no\nAnswer 2: reason 1, it is no\n\nQ?";
    expect(asked).toEqual([
      ["Q?", 0],
      ["Q?", 1],
      [again, 2],
      [again, 3],
      [again, 4],
    ]);
  });
});
