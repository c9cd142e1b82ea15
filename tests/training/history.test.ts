import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import { History, type Point } from "../../src/training/history.js";

function walk(length: number): Point[] {
  const random = new Random(7);
  const noise = new Float32Array(length);
  random.fillNormal(noise, 0, 0.1);
  // A spike of one step every so often, as a training run has them.
  return Array.from(noise, (value, i) => ({
    step: i + 1,
    loss: 4 / (1 + i / 5000) + value + (i % 9973 === 17 ? 3 : 0),
  }));
}

const filled = (points: readonly Point[]): Point[] => {
  const history = new History();
  for (const point of points) history.push(point);
  return history.points;
};

const bounds = (points: readonly Point[]): [number, number] => {
  let [least, most] = [Infinity, -Infinity];
  for (const { loss } of points) [least, most] = [Math.min(least, loss), Math.max(most, loss)];
  return [least, most];
};

describe("the history of a loss", () => {
  it("is all of a short one", () => {
    const points = walk(1000);
    expect(filled(points)).toEqual(points);
  });

  it("is bounded for a long one, whose outline it keeps", () => {
    const length = 200_000;
    const points = walk(length);
    const kept = filled(points);
    expect(kept.length).toBeLessThanOrEqual(2048);
    const steps = kept.map(({ step }) => step);
    expect(steps).toEqual([...steps].sort((a, b) => a - b));
    const all = new Map(points.map((point) => [point.step, point.loss]));
    for (const { step, loss } of kept) expect(all.get(step)).toBe(loss);
    // Every column of a picture 300 wide begins and ends within a stretch of 256 points.
    const width = Math.floor(length / 300);
    for (let from = 257; from + width + 256 < length; from += width) {
      const [least, most] = bounds(points.slice(from - 1, from + width - 1));
      const [innerLeast, innerMost] = bounds(
        kept.filter(({ step }) => step >= from - 256 && step < from + width + 256),
      );
      expect(innerLeast).toBeLessThanOrEqual(least);
      expect(innerMost).toBeGreaterThanOrEqual(most);
    }
    expect(bounds(kept)).toEqual(bounds(points));
  });

  it("leaves out what is not finite", () => {
    expect(
      filled([
        { step: 1, loss: NaN },
        { step: 2, loss: 1 },
        { step: 3, loss: Infinity },
      ]),
    ).toEqual([{ step: 2, loss: 1 }]);
  });
});
