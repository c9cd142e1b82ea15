import { describe, expect, it } from "vitest";
import type { Random } from "../../src/base/random.js";
import { ExampleSource, MixtureSource, onePass } from "../../src/data/index.js";

interface Row {
  example: number;
  draw: number;
}

function source(options: { copies?: number; count?: number; length?: (example: number) => number } = {}) {
  return new ExampleSource<number, Row>({
    batchSize: 4,
    seed: 7,
    examples: () => Array.from({ length: options.count ?? 14 }, (_, index) => index),
    transform: (example, random: Random) => ({ example, draw: random.nextUint32() }),
    collate: (rows) => ({
      tensors: {
        example: { data: Int32Array.from(rows, ({ example }) => example), shape: [rows.length] },
        draw: { data: Uint32Array.from(rows, ({ draw }) => draw), shape: [rows.length] },
      },
      counts: { rows: rows.length },
    }),
    copies: options.copies,
    length: options.length,
  });
}
const take = (from: { next(): ReturnType<ReturnType<typeof source>["next"]> }, count: number) =>
  Array.from({ length: count }, () => from.next());
/** Draws by example over one pass. */
const pass = (from: ReturnType<typeof source>) =>
  new Map(
    take(from, from.batches).flatMap(({ tensors }) =>
      [...(tensors["example"]!.data as Int32Array)].map(
        (example, row) => [example, tensors["draw"]!.data[row]] as const,
      ),
    ),
  );

describe("ExampleSource", () => {
  it("gives each example at most once a pass, in another order and with other numbers the next time", () => {
    const from = source();
    const [first, second] = [pass(from), pass(from)];
    expect(first.size).toBe(12);
    expect(second.size).toBe(12);
    expect([...first.keys()]).not.toEqual([...second.keys()]);
    for (const [example, draw] of first) if (second.has(example)) expect(second.get(example)).not.toBe(draw);
  });

  it("repeats static masks after the given number of passes, though not the order", () => {
    const from = source({ copies: 2, count: 16 });
    const passes = [pass(from), pass(from), pass(from), pass(from)] as const;
    const sorted = (map: Map<number, unknown>) => [...map].sort(([a], [b]) => a - b);
    expect(sorted(passes[0])).toEqual(sorted(passes[2]));
    expect(sorted(passes[1])).toEqual(sorted(passes[3]));
    expect(sorted(passes[0])).not.toEqual(sorted(passes[1]));
    expect([...passes[0].keys()]).not.toEqual([...passes[2].keys()]);
  });

  it("goes on exactly where it stood", () => {
    const from = source();
    take(from, 5);
    const { state } = from;
    const wanted = take(from, 6);
    const again = source();
    again.restore(state);
    expect(take(again, 6)).toEqual(wanted);
    expect(() => {
      again.restore({ place: 3 });
    }).toThrow("does not hold its position in the data");
  });

  it("puts examples of like length into one batch", () => {
    const lengths = source({ count: 64, length: (example) => example });
    for (const { tensors } of take(lengths, 16)) {
      const examples = [...(tensors["example"]!.data as Int32Array)].sort((a, b) => a - b);
      expect(examples[3]! - examples[0]!).toBe(3);
    }
  });

  it("says so when the data do not fill a batch", () => {
    expect(() => source({ count: 3 })).toThrow("makes 3 rows, but a batch needs 4");
  });
});

describe("onePass", () => {
  it("gives every example once, the same numbers every time", () => {
    const options = {
      batchSize: 4,
      seed: 3,
      examples: () => [0, 1, 2, 3, 4, 5],
      transform: (example: number, random: Random) => ({ example, draw: random.nextUint32() }),
      collate: (rows: readonly Row[]) => ({
        tensors: { example: { data: Int32Array.from(rows, ({ example }) => example), shape: [rows.length] } },
        counts: { rows: rows.reduce((sum, { draw }) => sum + draw, 0) },
      }),
    };
    const batches = [...onePass(options)];
    expect(batches.flatMap(({ tensors }) => [...(tensors["example"]!.data as Int32Array)])).toEqual([
      0, 1, 2, 3, 4, 5,
    ]);
    expect([...onePass(options)]).toEqual(batches);
  });
});

describe("MixtureSource", () => {
  it("draws its sources by weight and goes on exactly where it stood", () => {
    const make = () => new MixtureSource([source({ count: 40 }), source({ count: 8 })], [3, 1], 2);
    const from = make();
    take(from, 7);
    const { state } = from;
    const wanted = take(from, 5);
    const again = make();
    again.restore(state);
    expect(take(again, 5)).toEqual(wanted);
    const { parts } = (take(from, 400), from.state);
    const second = parts[1]!.epoch * 2 + parts[1]!.position;
    expect(Math.abs(second / 412 - 0.25)).toBeLessThan(0.09);
  });
});
