import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BucketedSource, batchesByLength } from "../../src/data/index.js";

const lengths = Array.from({ length: 233 }, (_, i) => 3 + ((i * 7919) % 60));
const source = (seed = 1, items = lengths) =>
  new BucketedSource(
    items.map((length, id) => ({ length, id })),
    {
      batchSize: 4,
      seed,
      lengthOf: ({ length }) => length,
      collate: (rows) => ({
        tensors: { ids: { data: Int32Array.from(rows, ({ id }) => id), shape: [rows.length] } },
        counts: { rows: rows.length },
        tokens: rows.length * Math.max(...rows.map(({ length }) => length)),
      }),
    },
  );

describe("a bucketed source", () => {
  it("gives every row once in an epoch, in another order in the next", () => {
    const rows = source();
    const epoch = () =>
      Array.from({ length: rows.batches }, () => [...rows.next().tensors["ids"]!.data]).flat() as number[];
    const [first, second] = [epoch(), epoch()];
    expect([...first].sort((a, b) => a - b)).toEqual(lengths.map((_, id) => id));
    expect([...second].sort((a, b) => a - b)).toEqual([...first].sort((a, b) => a - b));
    expect(second).not.toEqual(first);
  });

  it("pads next to nothing", () => {
    const rows = source();
    let padded = 0;
    for (let i = 0; i < rows.batches; i++) padded += rows.next().tokens!;
    const real = lengths.reduce((a, b) => a + b, 0);
    expect(padded / real).toBeLessThan(1.05);
  });

  it("goes on exactly where another one stood", () => {
    fc.assert(
      fc.property(fc.nat(150), fc.nat(70), (before, after) => {
        const one = source(7);
        for (let i = 0; i < before; i++) one.next();
        const two = source(7);
        two.restore(JSON.parse(JSON.stringify(one.state)));
        for (let i = 0; i < after; i++) expect(two.next()).toEqual(one.next());
      }),
      { numRuns: 30 },
    );
  });

  it("refuses no rows, and a place that is not in them", () => {
    expect(() => source(1, [])).toThrow("there is no row to learn from");
    expect(() => {
      source().restore({ epoch: 0, position: 1000 });
    }).toThrow("the checkpoint was made with other data");
  });
});

it("batches by length hold every row, the longest first", () => {
  const batches = batchesByLength(lengths, { batchSize: 8, lengthOf: (length) => length });
  const sorted = batches.flat().map((place) => lengths[place]!);
  expect(sorted).toEqual([...lengths].sort((a, b) => b - a));
  expect(new Set(batches.flat()).size).toBe(lengths.length);
});
