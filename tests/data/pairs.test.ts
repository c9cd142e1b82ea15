import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { pairBatch, pairSource, pairsOnce } from "../../src/data/index.js";

const texts = fc.array(fc.integer({ min: 5, max: 90 }), { minLength: 1, maxLength: 40 });
const pairs = fc.array(fc.record({ source: texts, target: texts }), { minLength: 1, maxLength: 60 });

describe("pairBatch", () => {
  it("lets the decoder read what it has to write, one token late", () => {
    const { tensors, counts } = pairBatch(
      [
        { source: [7, 8, 9], target: [11, 12, 2] },
        { source: [7], target: [2] },
      ],
      { padId: 0, startId: 1 },
    );
    expect(tensors).toEqual({
      inputIds: { data: Int32Array.from([7, 8, 9, 7, 0, 0]), shape: [2, 3] },
      attentionMask: { data: Uint8Array.from([1, 1, 1, 1, 0, 0]), shape: [2, 3] },
      decoderInputIds: { data: Int32Array.from([1, 11, 12, 1, 0, 0]), shape: [2, 3] },
      labels: { data: Int32Array.from([11, 12, 2, 2, -100, -100]), shape: [2, 3] },
    });
    expect(counts).toEqual({ tokens: 4 });
  });

  it("lets a pair say what the decoder reads, and where that stands", () => {
    const { tensors } = pairBatch(
      [
        { source: [7, 3, 3, 8], target: [5, 6], decoder: { ids: [7, 5], positions: [1, 2] } },
        { source: [7], target: [9, 4, 2] },
      ],
      { padId: 0, startId: 1 },
    );
    expect(tensors["decoderInputIds"]!.data).toEqual(Int32Array.from([7, 5, 0, 1, 9, 4]));
    expect(tensors["decoderPositionIds"]!.data).toEqual(Int32Array.from([1, 2, 0, 0, 1, 2]));
    expect(tensors["labels"]!.data).toEqual(Int32Array.from([5, 6, -100, 9, 4, 2]));
  });
});

describe("pairSource", () => {
  it("gives each pair once an epoch, in batches within the limit of tokens", () => {
    fc.assert(
      fc.property(pairs, fc.integer({ min: 40, max: 400 }), (rows, maxTokens) => {
        const source = pairSource(rows, { maxTokens, seed: 3, padId: 0, startId: 1 });
        let [seen, targets] = [0, 0];
        for (let batch = source.batches; batch > 0; batch--) {
          const { tensors, counts } = source.next();
          const [count, longest] = [
            tensors["inputIds"]!.shape[0]!,
            Math.max(tensors["inputIds"]!.shape[1]!, tensors["labels"]!.shape[1]!),
          ];
          expect(count * longest).toBeLessThanOrEqual(Math.max(maxTokens, longest));
          seen += count;
          targets += counts["tokens"]!;
        }
        expect(seen).toBe(rows.length);
        expect(targets).toBe(rows.reduce((sum, { target }) => sum + target.length, 0));
      }),
    );
  });

  it("gives held-out pairs once each", () => {
    fc.assert(
      fc.property(pairs, (rows) => {
        const batches = [...pairsOnce(rows, { maxTokens: 90, padId: 0, startId: 1 })];
        const total = batches.reduce((sum, { counts }) => sum + counts["tokens"]!, 0);
        expect(total).toBe(rows.reduce((sum, { target }) => sum + target.length, 0));
      }),
    );
  });

  it("lets a short pair not pay for a long one", () => {
    const rows = Array.from({ length: 400 }, (_, index) => {
      const ids = new Array<number>(index % 2 === 0 ? 10 : 60).fill(7);
      return { source: ids, target: ids };
    });
    const source = pairSource(rows, { maxTokens: 600, seed: 1, padId: 0, startId: 1 });
    let computed = 0;
    for (let batch = source.batches; batch > 0; batch--) computed += source.next().tokens!;
    const real = rows.reduce((sum, pair) => sum + pair.source.length + pair.target.length, 0);
    expect(computed / real).toBeLessThan(1.03);
  });

  it("goes on where it stood", () => {
    const rows = Array.from({ length: 50 }, (_, index) => ({
      source: new Array<number>(1 + (index % 7)).fill(index + 5),
      target: [2],
    }));
    const options = { maxTokens: 14, batchSize: 3, seed: 4, padId: 0, startId: 1 };
    const [whole, resumed] = [pairSource(rows, options), pairSource(rows, options)];
    // Over the ends of several epochs, whose batches differ in number.
    for (let step = 0; step < 70; step++) whole.next();
    resumed.restore(whole.state);
    for (let step = 0; step < 70; step++) expect(resumed.next()).toEqual(whole.next());
  });
});
