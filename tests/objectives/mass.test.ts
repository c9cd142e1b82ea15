import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import { type MaskingVocabulary, massRow } from "../../src/objectives/index.js";

const vocabulary: MaskingVocabulary = { size: 500, maskId: 1, specialIds: new Set([0, 1, 2]) };
const startId = 2;
const sentences = fc.array(fc.integer({ min: 3, max: 499 }), { minLength: 1, maxLength: 60 });
const seeds = fc.integer({ min: 0, max: 2 ** 31 });

describe("massRow", () => {
  it("hides a contiguous half, which the decoder predicts with its own tokens before", () => {
    fc.assert(
      fc.property(sentences, seeds, (ids, seed) => {
        const row = massRow(ids, vocabulary, startId, {}, new Random(seed));
        const length = Math.max(1, Math.round(ids.length / 2));
        expect(row.labels.length).toBe(length);
        const [start] = row.decoderPositions;
        expect(row.decoderPositions).toEqual(Array.from({ length }, (_, index) => start! + index));
        expect(row.labels).toEqual(ids.slice(start, start! + length));
        expect(row.decoderIds).toEqual([startId, ...ids].slice(start, start! + length));
        row.encoderIds.forEach((id, place) => {
          if (!row.decoderPositions.includes(place)) expect(id).toBe(ids[place]);
        });
        expect(row.encoderIds.length).toBe(ids.length);
      }),
    );
  });

  it("reaches from masked LM to a causal LM", () => {
    const ids = Array.from({ length: 40 }, (_, id) => 10 + id);
    const all = { maskShare: 1, randomShare: 0 };
    const one = massRow(ids, vocabulary, startId, { rate: 0, ...all }, new Random(4));
    expect(one.labels.length).toBe(1);
    expect(one.encoderIds.filter((id) => id === 1).length).toBe(1);
    const whole = massRow(ids, vocabulary, startId, { rate: 1, ...all }, new Random(4));
    expect(whole.encoderIds.every((id) => id === 1)).toBe(true);
    expect(whole.decoderIds).toEqual([startId, ...ids.slice(0, -1)]);
    expect(whole.labels).toEqual(ids);
  });

  it("hides 80% behind masks, 10% behind other tokens, and leaves 10%", () => {
    const ids = Array.from({ length: 20_000 }, (_, id) => 3 + (id % 497));
    const { encoderIds, decoderPositions } = massRow(ids, vocabulary, startId, {}, new Random(9));
    const share = (of: (id: number, place: number) => boolean) =>
      decoderPositions.filter((place) => of(encoderIds[place]!, place)).length / decoderPositions.length;
    expect(share((id) => id === 1)).toBeCloseTo(0.8, 1);
    expect(share((id, place) => id === ids[place])).toBeCloseTo(0.1, 1);
    expect(share((id, place) => id !== 1 && id !== ids[place])).toBeCloseTo(0.1, 1);
  });
});
