import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import {
  type Estimate,
  type ScalingRun,
  computeOptimal,
  fitScaling,
  isoFlopChart,
  powerLawOptimal,
  predictedLoss,
  readScalingRuns,
} from "../../src/evaluation/index.js";
import { lineage } from "../support/cli.js";
import { Reference } from "../support/reference.js";
import { writeTinyDecoder } from "../support/tiny-decoder.js";

// Hoffmann et al. 2022, equation 10: the law that they found.
const [E, A, B, alpha, beta] = [1.69, 406.4, 410.7, 0.34, 0.28];
const a = beta / (alpha + beta);
const lossOf = (parameters: number, tokens: number): number =>
  E + A / parameters ** alpha + B / tokens ** beta;

/** Runs of five budgets and seven sizes around the best of each, whose losses are a little off. */
function runsOf(noise: number): ScalingRun[] {
  const random = new Random(11);
  const about = () => Math.exp(noise * random.normal());
  return [1e17, 1e18, 1e19, 1e20, 1e21].flatMap((compute) =>
    [0.2, 0.35, 0.6, 1, 1.7, 3, 5].map((factor): ScalingRun => {
      const best = ((alpha * A) / (beta * B)) ** (1 / (alpha + beta)) * (compute / 6) ** a;
      const parameters = factor * best;
      const tokens = compute / 6 / parameters;
      const loss = lossOf(parameters, tokens) * about();
      const curve = Array.from({ length: 30 }, (_, place) => ((place + 1) * tokens) / 30).map((seen) => ({
        tokens: seen,
        loss: seen === tokens ? loss : lossOf(parameters, seen) * about(),
      }));
      return { parameters, tokens, loss, curve };
    }),
  );
}

const holds = ({ interval }: Estimate, value: number): void => {
  expect(interval![0]).toBeLessThanOrEqual(value);
  expect(interval![1]).toBeGreaterThanOrEqual(value);
};
const found = <T>(law: T | { readonly missing: string }): T => {
  if (typeof law === "object" && law !== null && "missing" in law) throw new Error(law.missing);
  return law as T;
};

describe("A scaling law", () => {
  const noisy = fitScaling(runsOf(0.003));
  const exact = fitScaling(runsOf(0), { bootstrap: 0 });

  it("is recovered by a law of the loss, within its interval where losses are a little off", () => {
    const { parametric: law } = exact;
    expect(law.E.value).toBeCloseTo(E, 4);
    expect(law.alpha.value).toBeCloseTo(alpha, 4);
    expect(law.beta.value).toBeCloseTo(beta, 4);
    expect(law.A / A).toBeCloseTo(1, 2);
    expect(law.B / B).toBeCloseTo(1, 2);
    expect(law.a.interval).toBeUndefined();
    holds(noisy.parametric.a, a);
    holds(noisy.parametric.b, 1 - a);
  });

  it("is recovered by parabolas through the runs of each budget", () => {
    expect(found(exact.isoFlop).a.value).toBeCloseTo(a, 3);
    expect(found(exact.isoFlop).points).toHaveLength(5);
    holds(found(noisy.isoFlop).a, a);
    holds(found(noisy.isoFlop).b, 1 - a);
  });

  it("is recovered by the envelope of the training curves", () => {
    expect(Math.abs(found(exact.envelope).a.value - a)).toBeLessThan(0.02);
    holds(found(noisy.envelope).a, a);
  });

  it("gives the size and the data of the least loss for a budget, and a larger run's loss", () => {
    const budget = 1e23;
    const { parameters, tokens, compute } = computeOptimal(exact.parametric, budget);
    expect(6 * parameters * tokens).toBeCloseTo(compute, -15);
    for (const factor of [0.9, 1.1])
      expect(lossOf(factor * parameters, tokens / factor)).toBeGreaterThan(lossOf(parameters, tokens));
    expect(predictedLoss(exact.parametric, 70e9, 1.4e12)).toBeCloseTo(lossOf(70e9, 1.4e12), 3);
    expect(powerLawOptimal(found(exact.isoFlop), budget).parameters / parameters).toBeCloseTo(1, 1);
  });

  it("has the minimum that scipy finds from the paper's grid of starts", () => {
    const values = new Reference("scaling").json("values.json") as Record<
      "E" | "alpha" | "beta" | "residual" | "delta",
      number
    > & {
      runs: ScalingRun[];
    };
    const { parametric: law } = fitScaling(values.runs, { bootstrap: 0, delta: values.delta });
    expect(law.residual).toBeLessThan(values.residual * 1.0001);
    expect(law.E.value / values.E).toBeCloseTo(1, 2);
    expect(law.alpha.value / values.alpha).toBeCloseTo(1, 2);
    expect(law.beta.value / values.beta).toBeCloseTo(1, 2);
  });

  it("is drawn as isoFLOP curves", () => {
    const svg = isoFlopChart(exact);
    expect(svg).toMatch(/^<svg [\s\S]*1\.0e\+19 FLOPs[\s\S]*least by the law[\s\S]*<\/svg>\n$/);
  });
});

describe("Runs that no law can be fitted to", () => {
  const run = (parameters: number, tokens: number, loss = 3): ScalingRun => ({ parameters, tokens, loss });
  const sizes = [1e6, 2e6, 3e6, 4e6, 5e6, 6e6];

  it("are fewer than the unknowns", () => {
    expect(() => fitScaling([run(1e6, 1e8), run(2e6, 1e8), run(1e6, 2e8)])).toThrow(
      "there are 3 runs, but the law has 5 unknowns (E, A, B, alpha, beta): fit it to at least 6 runs",
    );
  });

  it("are of one size, or of one amount of data", () => {
    expect(() => fitScaling(sizes.map((tokens) => run(1e6, tokens)))).toThrow(
      "all runs have one model size, 1,000,000: a law of it needs at least two, better four",
    );
    expect(() => fitScaling(sizes.map((parameters) => run(parameters, 1e8)))).toThrow("one amount of data");
  });

  it("have a loss that is no number", () => {
    expect(() =>
      fitScaling(sizes.map((size, place) => run(size, size, place === 2 ? Number.NaN : 3))),
    ).toThrow("run 3: loss must be a number above 0, not NaN");
  });

  it("are told why a method has no law", () => {
    const { isoFlop, envelope } = fitScaling(
      sizes.flatMap((size) => [
        run(size, size * 20, lossOf(size, size * 20)),
        run(size, size * 7, lossOf(size, size * 7)),
      ]),
      { bootstrap: 0 },
    );
    expect(isoFlop).toMatchObject({
      missing: expect.stringMatching(/no budget has three or more sizes/) as string,
    });
    expect(envelope).toMatchObject({ missing: "the runs have no training curves" });
  });
});

describe("lineage scaling fit", () => {
  let folder = "";
  beforeAll(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  });
  afterAll(() => rm(folder, { recursive: true }));
  const table = async (name = "runs.csv", header = "parameters,tokens,loss"): Promise<string> => {
    const file = path.join(folder, name);
    const rows = runsOf(0).map(({ parameters, tokens, loss }) => `${parameters},${tokens},${loss}`);
    await writeFile(file, `${header}\n${rows.join("\n")}\n`);
    return file;
  };
  const trained = async (
    name: string,
    data = "my.txt",
    system: "gpt1" | "llama" = "llama",
  ): Promise<string> => {
    const run = path.join(folder, name);
    await mkdir(run);
    await writeTinyDecoder(run, system);
    await writeFile(path.join(run, "run.json"), JSON.stringify({ system, data }));
    const lines = [
      { step: 1, loss: 6, tokens: 512 },
      { step: 1, validationLoss: 5.5 },
      { step: 2, loss: 5, tokens: 512 },
      { step: 2, validationLoss: 5 },
    ];
    await writeFile(
      path.join(run, "metrics.jsonl"),
      lines.map((line) => `${JSON.stringify(line)}\n`).join(""),
    );
    return run;
  };

  it("fits a table, and predicts a larger run's loss for a program", async () => {
    const picture = path.join(folder, "isoflop.svg");
    const { stdout, status } = await lineage(
      ...["scaling", "fit", await table(), "--budget", "1e22", "--parameters", "7e9", "--tokens", "1.4e11"],
      ...["--bootstrap", "0", "--out", picture, "--json"],
    );
    expect(status).toBe(0);
    const result = JSON.parse(stdout) as {
      runs: number;
      predicted: { loss: number };
      parametric: { a: Estimate };
      optimal: { parametric: { parameters: number; tokens: number } };
    };
    expect(result.runs).toBe(35);
    expect(result.predicted.loss).toBeCloseTo(lossOf(7e9, 1.4e11), 3);
    expect(result.parametric.a.value).toBeCloseTo(a, 3);
    expect(6 * result.optimal.parametric.parameters * result.optimal.parametric.tokens).toBeCloseTo(
      1e22,
      -16,
    );
    expect(await readFile(picture, "utf8")).toMatch(/^<svg /);
  });

  it("says the exponents in words", async () => {
    const { stdout } = await lineage(
      "scaling",
      "fit",
      await table(),
      "--bootstrap",
      "20",
      "--budget",
      "1e22",
    );
    expect(stdout).toMatch(
      /^35 runs; [\s\S]*isoFLOP +a 0\.45\d \(0\.\d+ to 0\.\d+\), b 0\.5[\s\S]*at 1\.00e\+22 FLOPs/,
    );
  });

  it("reads the folders of runs: their sizes, their tokens and the loss as it fell", async () => {
    const [run] = await readScalingRuns([await trained("run")]);
    expect(run).toMatchObject({
      tokens: 1024,
      loss: 5,
      curve: [
        { tokens: 512, loss: 5.5 },
        { tokens: 1024, loss: 5 },
      ],
    });
    expect(run!.parameters).toBeGreaterThan(10_000);
  });

  it("refuses runs of different texts or tokenizers, and what is no run", async () => {
    const one = await trained("one");
    await expect(readScalingRuns([one, await trained("other", "others.txt")])).rejects.toThrow(
      "have another text each",
    );
    await expect(readScalingRuns([one, await trained("words", "my.txt", "gpt1")])).rejects.toThrow(
      "have another tokenizer each",
    );
    await expect(readScalingRuns([path.join(folder, "none")])).rejects.toThrow("there is no ");
    await expect(readScalingRuns([folder])).rejects.toThrow(
      "is not a run of lineage train: it has no run.json",
    );
    await expect(readScalingRuns([await table("sizes.csv", "parameters,steps,loss")])).rejects.toThrow(
      "has no column tokens; it has parameters, steps, loss",
    );
    const half = await lineage("scaling", "fit", await table(), "--tokens", "1e9");
    expect(half.stderr).toContain("a prediction needs both --parameters and --tokens");
  });
});
