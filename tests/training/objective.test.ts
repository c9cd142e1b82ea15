import { describe, expect, it } from "vitest";
import type { Batch, BatchSource } from "../../src/data/index.js";
import { type Tensor, matmul, mul, square, sub, sum } from "../../src/graph/index.js";
import { Module, Parameter, Weights, normalInit } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { type Objective, Trainer, evaluate, sgd } from "../../src/training/index.js";

const runtime = createRuntime();

/** Two linear maps of one input: enough to have two losses. */
class TwoHeads extends Module {
  readonly first = new Parameter([3, 2], normalInit(0.5));
  readonly second = new Parameter([3, 1], normalInit(0.5));
  override forward(x: Tensor): [Tensor, Tensor] {
    return [matmul(x, this.first.tensor), matmul(x, this.second.tensor)];
  }
}

/** Squared error of the first head on every row, and of the second one on the rows of a mask. */
function objectiveOf(model: TwoHeads, lossWeights?: Record<string, number>): Objective {
  return {
    model,
    lossWeights,
    inputs: {
      x: { dtype: "float32", shape: ["rows", 3] },
      y: { dtype: "float32", shape: ["rows", 2] },
      z: { dtype: "float32", shape: ["rows", 1] },
      mask: { dtype: "float32", shape: ["rows", 1] },
    },
    losses: ({ x, y, z, mask }) => {
      const [first, second] = model.forward(x!);
      return { first: sum(square(sub(first, y!))), second: sum(mul(square(sub(second, z!)), mask!)) };
    },
  };
}

const random = (length: number, seed: number) =>
  Float32Array.from({ length }, (_, i) => Math.sin(12.9898 * (i + 1) * seed) * 2);
const rows = 12;
const all = { x: random(36, 1), y: random(24, 2), z: random(12, 3) };
const mask = Float32Array.of(1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 1);
const width = { x: 3, y: 2, z: 1, mask: 1 };

/** Rows `from` to `to` as one batch. */
function cut(from: number, to: number): Batch {
  const tensors = Object.fromEntries(
    Object.entries({ ...all, mask }).map(([name, data]) => {
      const columns = width[name as keyof typeof width];
      return [name, { data: data.slice(from * columns, to * columns), shape: [to - from, columns] }];
    }),
  );
  return { tensors, counts: { first: to - from, second: mask.slice(from, to).reduce((a, b) => a + b) } };
}

function sourceOf(...batches: Batch[]): BatchSource {
  let at = 0;
  return {
    next: () => batches[at++ % batches.length]!,
    get state() {
      return at;
    },
    restore: (state) => {
      at = state as number;
    },
  };
}

async function stepOnce(model: TwoHeads, batches: Batch[], lossWeights?: Record<string, number>) {
  using weights = Weights.initialize(runtime, model, 4);
  const before = weights.flat.view().slice();
  using trainer = await Trainer.create({
    objective: objectiveOf(model, lossWeights),
    weights,
    source: sourceOf(...batches),
    accumulation: batches.length,
    clipNorm: 1e9,
    seed: 1,
    schedule: () => 0.1,
    optimizer: sgd,
  });
  const report = await trainer.step();
  return {
    report,
    before,
    gradients: trainer.gradients.flat.view().slice(),
    after: weights.flat.view().slice(),
  };
}

describe("an objective of two parts", () => {
  it("weighs the mean of each part over its own count", async () => {
    const { report } = await stepOnce(new TwoHeads(), [cut(0, rows)], { second: 3 });
    expect(report.counts).toEqual({ first: 12, second: 6 });
    expect(report.loss).toBeCloseTo(report.parts["first"]! + 3 * report.parts["second"]!, 10);
    const model = new TwoHeads();
    using weights = Weights.initialize(runtime, model, 4);
    const [a, b] = [weights.get("first").view(), weights.get("second").view()];
    let [first, second] = [0, 0];
    for (let row = 0; row < rows; row++) {
      const x = all.x.subarray(row * 3, row * 3 + 3);
      for (let column = 0; column < 2; column++) {
        const product = x.reduce((total, value, i) => total + value * a[i * 2 + column]!, 0);
        first += (product - all.y[row * 2 + column]!) ** 2;
      }
      const product = x.reduce((total, value, i) => total + value * b[i]!, 0);
      second += mask[row]! * (product - all.z[row]!) ** 2;
    }
    expect(report.parts["first"]).toBeCloseTo(first / 12, 4);
    expect(report.parts["second"]).toBeCloseTo(second / 6, 4);
  });

  it("has the loss and gradient of one big batch in micro-batches of any sizes, whatever part each of them has", async () => {
    const whole = await stepOnce(new TwoHeads(), [cut(0, rows)], { second: 3 });
    // Rows 1 to 3 have nothing for the second part.
    const parts = await stepOnce(new TwoHeads(), [cut(0, 1), cut(1, 3), cut(3, 8), cut(8, 12)], {
      second: 3,
    });
    expect(parts.report.loss).toBeCloseTo(whole.report.loss, 5);
    expect(parts.report.counts).toEqual(whole.report.counts);
    whole.gradients.forEach((value, index) => {
      expect(parts.gradients[index]).toBeCloseTo(value, 5);
    });
  });

  it("is the same in evaluation", async () => {
    const model = new TwoHeads();
    using weights = Weights.initialize(runtime, model, 4);
    const { report } = await stepOnce(model, [cut(0, rows)]);
    const measured = await evaluate(objectiveOf(model), weights, [cut(0, 5), cut(5, rows)]);
    expect(measured.loss).toBeCloseTo(report.loss, 5);
    expect(measured.counts).toEqual(report.counts);
  });

  it("leaves frozen parameters alone, and needs no memory for their gradients", async () => {
    const model = new TwoHeads();
    model.first.trainable = false;
    const { before, after, gradients } = await stepOnce(model, [cut(0, rows)]);
    expect(after.subarray(0, 16)).toEqual(before.subarray(0, 16));
    expect(after.subarray(16)).not.toEqual(before.subarray(16));
    expect(gradients).toHaveLength(16);
  });

  it("counts every part by the only count that a batch has", async () => {
    const model = new TwoHeads();
    const { tensors } = cut(0, 4);
    const alone = await stepOnce(model, [{ tensors, counts: { rows: 4 } }]);
    const each = await stepOnce(model, [{ tensors, counts: { first: 4, second: 4 } }]);
    expect(alone.report.parts).toEqual(each.report.parts);
    expect(alone.gradients).toEqual(each.gradients);
  });

  it("refuses a batch that does not fit it, in one sentence", async () => {
    const model = new TwoHeads();
    const broken = (changes: Partial<Batch["tensors"]>, counts = { first: 1, second: 1 }) =>
      stepOnce(model, [{ tensors: { ...cut(0, 4).tensors, ...changes } as Batch["tensors"], counts }]);
    await expect(broken({ x: { data: random(8, 1), shape: [4, 2] } })).rejects.toThrow(
      'the batch\'s "x" is [4, 2], but the objective takes float32 [rows, 3]',
    );
    await expect(broken({ y: { data: random(6, 1), shape: [3, 2] } })).rejects.toThrow(
      'the batch\'s "y" is [3, 2], but the objective takes float32 [rows, 2] with rows = 4',
    );
    await expect(broken({ z: { data: new Int32Array(4), shape: [4, 1] } })).rejects.toThrow("Int32Array");
    await expect(broken({ mask: undefined })).rejects.toThrow('the batch has no tensor "mask"');
    await expect(broken({}, { first: 1, third: 1 } as never)).rejects.toThrow(
      'the batches count no "second"',
    );
    await expect(broken({}, { first: 0, second: 0 })).rejects.toThrow("no label that counts");
    for (const parameter of [model.first, model.second]) parameter.trainable = false;
    await expect(stepOnce(model, [cut(0, 4)])).rejects.toThrow("every parameter of the model is frozen");
  });
});
