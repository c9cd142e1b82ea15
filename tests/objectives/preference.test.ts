import { describe, expect, it } from "vitest";
import { type Tensor, gradients, input, sum } from "../../src/graph/index.js";
import {
  type PairLoss,
  type PairLogProbs,
  cpo,
  dpo,
  hinge,
  ipo,
  ktoLosses,
  orpo,
  robustDpo,
  simpo,
} from "../../src/objectives/index.js";
import { mean } from "../../src/graph/index.js";
import { evaluate } from "../graph/numeric.js";
import { Reference, relativeError } from "../support/reference.js";

interface Values {
  readonly cases: Readonly<
    Record<string, { losses: number[]; chosenGradient: number[]; rejectedGradient: number[] }>
  >;
  readonly kto: Readonly<
    Record<string, Record<"ratios" | "other" | "liked" | "losses" | "gradient", number[]>>
  >;
  readonly chosen: number[];
}
const reference = new Reference("").json("preference.json") as Values & Record<keyof PairLogProbs, number[]>;
const count = reference.chosen.length;
const names = [
  "chosen",
  "rejected",
  "referenceChosen",
  "referenceRejected",
  "chosenLength",
  "rejectedLength",
] as const;

const losses: Readonly<Record<string, PairLoss>> = {
  dpo: dpo(),
  dpoBeta: dpo({ beta: 0.5 }),
  conservative: dpo({ labelSmoothing: 0.2 }),
  robust: robustDpo({ beta: 0.3, labelSmoothing: 0.1 }),
  hinge: hinge(),
  ipo: ipo({ beta: 0.2 }),
  simpo: simpo({ beta: 2, gamma: 0.7, labelSmoothing: 0.1 }),
  cpo: cpo({ labelSmoothing: 0.1 }),
  orpo: orpo({ beta: 0.25 }),
};

const error = (got: Float64Array, wanted: readonly number[]) => relativeError(got, Float32Array.from(wanted));
const given = (values: Readonly<Record<string, readonly number[]>>) =>
  Object.fromEntries(
    Object.entries(values).map(([name, data]) => [name, { shape: [count], data: Float64Array.from(data) }]),
  );

describe("losses on preferences", () => {
  it("has a reference value for every loss", () => {
    expect(Object.keys(losses)).toEqual(Object.keys(reference.cases));
  });

  it.each(Object.entries(losses))("%s gives trl's loss and gradients", async (name, loss) => {
    const pairs = Object.fromEntries(names.map((key) => [key, input(key, "float64", [count])])) as Record<
      keyof PairLogProbs,
      Tensor
    >;
    const each = loss.losses(pairs);
    const [chosenGradient, rejectedGradient] = gradients(sum(each), [pairs.chosen, pairs.rejected]);
    const got = await evaluate(
      { each, chosenGradient: chosenGradient!, rejectedGradient: rejectedGradient! },
      given(Object.fromEntries(names.map((key) => [key, reference[key]]))),
    );
    const wanted = reference.cases[name]!;
    expect(error(got["each"]!, wanted.losses)).toBeLessThan(1e-6);
    expect(error(got["chosenGradient"]!, wanted.chosenGradient)).toBeLessThan(1e-6);
    expect(error(got["rejectedGradient"]!, wanted.rejectedGradient)).toBeLessThan(1e-6);
  });

  it.each(Object.entries(reference.kto))(
    "KTO gives trl's loss and gradient, divergence %s zero",
    async (_, wanted) => {
      const [ratios, other, liked] = ["ratios", "other", "liked"].map((key) =>
        input(key, "float64", [count]),
      );
      const each = ktoLosses(
        { ratios: ratios!, liked: liked!, divergence: mean(other!) },
        { beta: 0.3, desirableWeight: 1.2, undesirableWeight: 0.7 },
      );
      const [gradient] = gradients(sum(each), [ratios!]);
      const got = await evaluate(
        { each, gradient: gradient! },
        given({ ratios: wanted.ratios, other: wanted.other, liked: wanted.liked }),
      );
      expect(error(got["each"]!, wanted.losses)).toBeLessThan(1e-6);
      expect(error(got["gradient"]!, wanted.gradient)).toBeLessThan(1e-6);
    },
  );
});
