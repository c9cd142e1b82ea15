import fc from "fast-check";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  ConfusionMatrix,
  bestThreshold,
  entitiesOf,
  entityScores,
  pearson,
  rootMeanSquaredError,
  spanScores,
  spearman,
} from "../../src/training/metrics.js";

interface Classes {
  count: number;
  truth: number[];
  predictions: number[];
  accuracy: number;
  macroF1: number;
  microF1: number;
  matthews: number;
  precision: number[];
  recall: number[];
  f1: number[];
  support: number[];
  confusion: number[][];
}
interface Numbers {
  truth: number[];
  predictions: number[];
  pearson: number;
  spearman: number;
  rootMeanSquaredError: number;
}
const reference = JSON.parse(
  readFileSync(new URL("../reference/values/metrics.json", import.meta.url), "utf8"),
) as { classes: Classes[]; numbers: Numbers[] };

describe("metrics of classes are scikit-learn's", () => {
  it.each(reference.classes)("$count classes", (expected) => {
    const names = Array.from({ length: expected.count }, (_, place) => `class ${place}`);
    const matrix = ConfusionMatrix.of(names, expected.truth, expected.predictions);
    expect(matrix.counts.map((row) => [...row])).toEqual(expected.confusion);
    expect(matrix.accuracy).toBeCloseTo(expected.accuracy, 12);
    // With one answer for each case, micro F1 is accuracy.
    expect(matrix.accuracy).toBeCloseTo(expected.microF1, 12);
    expect(matrix.macroF1).toBeCloseTo(expected.macroF1, 12);
    expect(matrix.matthews).toBeCloseTo(expected.matthews, 12);
    matrix.byClass.forEach(({ precision, recall, f1, support }, place) => {
      expect(precision).toBeCloseTo(expected.precision[place]!, 12);
      expect(recall).toBeCloseTo(expected.recall[place]!, 12);
      expect(f1).toBeCloseTo(expected.f1[place]!, 12);
      expect(support).toBe(expected.support[place]!);
    });
  });

  it("and a confusion matrix reads as a table", () => {
    expect(ConfusionMatrix.of(["no", "yes"], [0, 0, 1], [0, 1, 1]).toString()).toBe(
      ["truth \\ prediction   no  yes", "no                    1    1", "yes                   0    1"].join(
        "\n",
      ),
    );
  });
});

describe("the best threshold", () => {
  const confusionAt = (truth: boolean[], probabilities: number[], threshold: number) =>
    ConfusionMatrix.of(
      ["no", "yes"],
      truth.map(Number),
      probabilities.map((probability) => Number(probability >= threshold)),
    );
  const scores = {
    f1: (confusion: ConfusionMatrix) => confusion.byClass[1]!.f1,
    accuracy: (confusion: ConfusionMatrix) => confusion.accuracy,
    matthews: (confusion: ConfusionMatrix) => confusion.matthews,
  };
  const probability = fc.oneof(
    fc.double({ min: 0, max: 1, noNaN: true }),
    fc.constantFrom(0, 0.25, 0.5, 0.75, 1),
  );
  const cases = fc.array(fc.tuple(fc.boolean(), probability), { minLength: 1, maxLength: 20 });

  it.each(Object.entries(scores))("is as good as every other one by %s", (_, score) => {
    fc.assert(
      fc.property(cases, (rows) => {
        const [truth, probabilities] = [rows.map(([yes]) => yes), rows.map(([, p]) => p)];
        const at = (threshold: number) => score(confusionAt(truth, probabilities, threshold));
        const best = bestThreshold(truth, probabilities, score);
        expect(best).toBeGreaterThanOrEqual(0);
        expect(best).toBeLessThanOrEqual(1);
        for (const other of [0, 0.5, 1, ...probabilities, ...probabilities.map((p) => (p + 1) / 2)])
          expect(at(best)).toBeGreaterThanOrEqual(at(other));
      }),
    );
  });

  it("is a half where that is as good, and in the middle of a gap elsewhere", () => {
    expect(bestThreshold([true, true, false], [0.9, 0.6, 0.2], scores.f1)).toBe(0.5);
    expect(bestThreshold([true, true, false, false], [0.9, 0.4, 0.2, 0.1], scores.f1)).toBeCloseTo(0.3, 12);
    expect(bestThreshold([true, false, false], [0.9, 0.7, 0.6], scores.accuracy)).toBeCloseTo(0.8, 12);
  });
});

describe("metrics of numbers are scipy's and scikit-learn's", () => {
  it.each(reference.numbers)("$truth.length numbers", (expected) => {
    const { truth, predictions } = expected;
    expect(pearson(truth, predictions)).toBeCloseTo(expected.pearson, 12);
    expect(spearman(truth, predictions)).toBeCloseTo(expected.spearman, 12);
    expect(rootMeanSquaredError(truth, predictions)).toBeCloseTo(expected.rootMeanSquaredError, 12);
  });

  it("and lists of different lengths are refused", () => {
    expect(() => pearson([1, 2], [1])).toThrow("there are 1 predictions for 2 true values");
  });
});

describe("metrics of answers and entities", () => {
  it("compare answers as SQuAD does: without case, articles and punctuation, the best gold answer counting", () => {
    expect(spanScores("The Eiffel Tower!", ["eiffel tower"])).toEqual({ exact: 1, f1: 1 });
    // Two of three words and two of two: precision 2/3, recall 1.
    expect(spanScores("big eiffel tower", ["tower eiffel", "x"]).f1).toBeCloseTo(0.8, 12);
    expect(spanScores("", [])).toEqual({ exact: 1, f1: 1 });
    expect(spanScores("word", [])).toEqual({ exact: 0, f1: 0 });
  });

  it("count whole entities", () => {
    expect(entitiesOf(["B-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-PER"])).toEqual([
      { type: "PER", start: 0, end: 2 },
      { type: "LOC", start: 3, end: 4 },
      { type: "LOC", start: 4, end: 5 },
      { type: "PER", start: 5, end: 6 },
    ]);
    // One of two true entities is found, and one found is wrong.
    const scores = entityScores([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "O", "O", "B-LOC"]]);
    expect(scores).toEqual({ precision: 0.5, recall: 0.5, f1: 0.5 });
  });
});
