import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import { DocumentSource, type Tokens, documentsOnce } from "../../src/data/index.js";
import { Gpt2, Palm, gpt2Config, palmConfig } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import {
  type Denoiser,
  denoisedRow,
  denoisingTokens,
  denoisingVocabulary,
  isCausal,
  mixedRow,
  mixtureOf,
  packedPrefixBatch,
  packedPrefixObjective,
  prefixBatch,
  prefixObjective,
  textLength,
  ul2Mixture,
  ul2rMixture,
} from "../../src/objectives/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { EvaluationStep } from "../../src/training/index.js";
import {
  characterTokenizer,
  sentinelsOf,
  trainByteLevelBpe,
  withTokens,
} from "../../src/tokenizers/index.js";

const rowLength = 129;
const plain = trainByteLevelBpe(["once upon a time there was a fox"], { vocabSize: 300 });
const tokenizer = withTokens(plain, denoisingTokens([...ul2rMixture, ...ul2Mixture], rowLength));
const vocabulary = denoisingVocabulary(tokenizer, [...ul2rMixture, ...ul2Mixture], rowLength);
const ofSentinel = new Map(vocabulary.sentinels.map((id, index) => [id, index]));
const text = (length: number) => Array.from({ length }, (_, at) => (at * 7) % 250);

/** What a row of spans says: the text that its inputs and its targets make together, and the lengths of its hidden spans. */
function filled(ids: readonly number[], prefixLength: number, mode: boolean) {
  const inputs = ids.slice(mode ? 1 : 0, prefixLength);
  const targets = ids.slice(prefixLength, -1);
  expect(ids.at(-1)).toBe(vocabulary.endId);
  const hidden: number[][] = [];
  for (const id of targets) {
    const index = ofSentinel.get(id);
    if (index === undefined) hidden.at(-1)!.push(id);
    else {
      // Sentinels come in their order.
      expect(index).toBe(hidden.length);
      hidden.push([]);
    }
  }
  const whole = inputs.flatMap((id) => (ofSentinel.has(id) ? hidden[ofSentinel.get(id)!]! : [id]));
  return { whole, hidden: hidden.map(({ length }) => length), inputs };
}

describe("span denoisers", () => {
  it.each([
    [0.15, 3],
    [0.15, 8],
    [0.15, 32],
    [0.5, 3],
    [0.5, 8],
    [0.5, 64],
  ])(
    "hide a share of %s in spans of %s on average, and every token is in the row once",
    (rate, meanLength) => {
      const denoiser: Denoiser = { kind: "spans", rate, meanLength, mode: "[NLG]" };
      const length = textLength(denoiser, rowLength);
      const ids = text(length);
      for (let seed = 0; seed < 50; seed++) {
        const row = denoisedRow(ids, denoiser, vocabulary, new Random(seed));
        expect(row.ids[0]).toBe(tokenizer.tokenToId("[NLG]"));
        const { whole, hidden } = filled(row.ids, row.prefixLength, true);
        expect(whole).toEqual(ids);
        const total = hidden.reduce((sum, one) => sum + one, 0);
        expect(total).toBe(Math.round(length * rate));
        expect(hidden).toHaveLength(Math.max(1, Math.round(total / meanLength)));
        expect(row.ids.length).toBeLessThanOrEqual(rowLength);
      }
      // One token more would not fit.
      const longer = denoisedRow(text(length + 1), denoiser, vocabulary, new Random(1));
      expect(longer.ids.length).toBeGreaterThan(rowLength);
    },
  );

  it("leave out the token that closes a document, which no text with gaps has", () => {
    const denoiser: Denoiser = { kind: "spans", rate: 0.15, meanLength: 3 };
    const rows = [text(20), [...text(20), vocabulary.endId]].map((ids) =>
      denoisedRow(ids, denoiser, vocabulary, new Random(1)),
    );
    expect(rows[1]).toEqual(rows[0]);
  });

  it("hide a single span at every place alike", () => {
    const denoiser: Denoiser = { kind: "spans", rate: 0.25, meanLength: 32 };
    // Ten tokens, of which three are hidden together: eight places.
    const counts = new Array<number>(8).fill(0);
    const draws = 4000;
    for (let seed = 0; seed < draws; seed++) {
      const row = denoisedRow(text(10), denoiser, vocabulary, new Random(seed));
      const { inputs } = filled(row.ids, row.prefixLength, false);
      counts[inputs.findIndex((id) => ofSentinel.has(id))]!++;
    }
    const expected = draws / 8;
    const statistic = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    // The 0.999 quantile of chi-squared with 7 degrees of freedom.
    expect(statistic).toBeLessThan(24.3);
  });
});

describe("the sequential denoiser", () => {
  it("shows a beginning of any length and predicts all the rest", () => {
    const denoiser: Denoiser = { kind: "prefix", mode: "[S2S]" };
    const shown = new Set<number>();
    for (let seed = 0; seed < 300; seed++) {
      const row = denoisedRow(text(9), denoiser, vocabulary, new Random(seed));
      expect(row.ids).toEqual([tokenizer.tokenToId("[S2S]"), ...text(9)]);
      shown.add(row.prefixLength - 1);
    }
    expect([...shown].sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  });

  it("predicts UL2's quarter where it has a rate", () => {
    const row = denoisedRow(text(100), { kind: "prefix", rate: 0.25 }, vocabulary, new Random(1));
    expect(row).toEqual({ ids: text(100), prefixLength: 75 });
  });
});

describe("mixtures", () => {
  it("draw UL2R's denoisers as often as published", () => {
    const block = Int32Array.from(text(rowLength));
    const modes = new Map<number, number>();
    const draws = 4000;
    for (let seed = 0; seed < draws; seed++) {
      const { ids } = mixedRow(block, ul2rMixture, vocabulary, rowLength, new Random(seed));
      modes.set(ids[0]!, (modes.get(ids[0]!) ?? 0) + 1);
    }
    const share = (token: string) => modes.get(tokenizer.tokenToId(token)!)! / draws;
    // Four deviations of a share of 4,000 draws.
    expect(Math.abs(share("[S2S]") - 0.5)).toBeLessThan(0.032);
    expect(Math.abs(share("[NLU]") - 0.25)).toBeLessThan(0.028);
    expect(Math.abs(share("[NLG]") - 0.25)).toBeLessThan(0.028);
  });

  it("are a pure function of the seed", () => {
    const block = Int32Array.from(text(rowLength));
    const row = () => mixedRow(block, ul2Mixture, vocabulary, rowLength, new Random(9));
    expect(row()).toEqual(row());
  });

  it("are told by names and weights", () => {
    expect(mixtureOf("ul2r")).toEqual(ul2rMixture);
    const shares = mixtureOf("causal=2, prefix=1,spans=1").map(({ share, denoiser }) => [
      denoiser.kind,
      share,
    ]);
    expect(shares).toEqual([
      ["causal", 0.5],
      ["prefix", 0.25],
      ["spans", 0.25],
    ]);
    expect(isCausal(mixtureOf("causal"))).toBe(true);
    expect(isCausal(mixtureOf("causal,prefix"))).toBe(false);
    expect(ul2Mixture.map(({ share }) => share).reduce((a, b) => a + b)).toBeCloseTo(1);
  });

  it.each(["", "ul3", "prefix=0", "prefix=-1", "prefix=x", "prefix=1=2", "prefix,,spans", "constructor"])(
    "refuse %j",
    (objective) => {
      expect(() => mixtureOf(objective)).toThrow("the objective");
    },
  );

  it("name the tokens that a tokenizer lacks", () => {
    expect(() => denoisingVocabulary(plain, ul2rMixture, rowLength)).toThrow(/has no <extra_id_0>/);
    const letters = withTokens(characterTokenizer("abc"), denoisingTokens(ul2rMixture, rowLength));
    expect(() => denoisingVocabulary(letters, ul2rMixture, rowLength)).toThrow("<|endoftext|>");
    expect(denoisingTokens(mixtureOf("prefix"), rowLength)).toEqual([]);
  });
});

describe("a batch of a prefix language model", () => {
  it("predicts the targets alone, each from what is before it", () => {
    const batch = prefixBatch(
      [
        { ids: [5, 6, 7, 8, 9], prefixLength: 2 },
        { ids: [1, 2, 3], prefixLength: 0 },
      ],
      5,
    );
    const rows = (name: string) => {
      const data = Array.from(batch.tensors[name]!.data, Number);
      return [data.slice(0, 5), data.slice(5)];
    };
    expect(rows("inputIds")).toEqual([
      [5, 6, 7, 8, 0],
      [1, 2, 0, 0, 0],
    ]);
    expect(rows("labels")).toEqual([
      [-100, 7, 8, 9, -100],
      [2, 3, -100, -100, -100],
    ]);
    expect(rows("prefix")).toEqual([
      [1, 1, 0, 0, 0],
      [0, 0, 0, 0, 0],
    ]);
    expect(batch.counts).toEqual({ tokens: 5 });
    expect(() => prefixBatch([{ ids: [1, 2, 3, 4], prefixLength: 1 }], 2)).toThrow("does not fit");
  });
});

describe("rows of several documents with a prefix each", () => {
  const documents = [9, 30, 4, 21, 2, 17, 12, 40, 3, 5].map(text).map((ids) => Int32Array.from(ids));
  const options = {
    ...{ rowLength: 48, batchSize: 2, seed: 3 },
    transform: (document: Tokens, random: Random) => mixedRow(document, ul2rMixture, vocabulary, 48, random),
    lengthOf: ({ ids }: { readonly ids: readonly number[] }) => ids.length,
  };
  const sizes = { hiddenSize: 32, numLayers: 2, numHeads: 2, contextLength: 48, prefixLm: true };
  const vocabSize = tokenizer.vocabSize;

  it.each([
    ["PaLM", new Palm(palmConfig({ ...sizes, vocabSize }))],
    ["GPT-2", new Gpt2(gpt2Config({ ...sizes, vocabSize, initializerRange: 0.3 }))],
  ])("have the loss that %s has with each in a row of its own", async (_, model) => {
    const runtime = createRuntime({ threads: 1 });
    using weights = Weights.initialize(runtime, model, 1);
    using packed = await EvaluationStep.create(packedPrefixObjective(model), weights);
    using alone = await EvaluationStep.create(prefixObjective(model), weights);
    const source = new DocumentSource([{ documents, rate: 1, name: "text" }], {
      ...options,
      collate: (rows) => {
        expect(rows.map(({ length }) => length)).not.toContain(0);
        singles = rows.flat();
        return packedPrefixBatch(rows, 48);
      },
    });
    let singles: readonly { ids: readonly number[]; prefixLength: number }[] = [];
    for (let time = 0; time < 3; time++) {
      const batch = source.next();
      expect(singles.length).toBeGreaterThan(2);
      const together = await packed.run(batch);
      let sum = 0;
      for (const row of singles) sum += (await alone.run(prefixBatch([row], 48))).tokens!;
      expect(together.tokens! / sum).toBeCloseTo(1, 5);
      expect(batch.counts["tokens"]).toBe(
        singles.reduce((total, row) => total + prefixBatch([row], 48).counts["tokens"]!, 0),
      );
    }
  });

  it("give each document once before any comes again, and go on from a place", () => {
    const own = { ...options, transform: (ids: Tokens) => ids, lengthOf: (ids: Tokens) => ids.length };
    const seen: number[] = [];
    const make = () =>
      new DocumentSource([{ documents, rate: 1, name: "text" }], {
        ...own,
        collate: (rows: readonly (readonly Tokens[])[]) => {
          for (const row of rows) {
            expect(row.reduce((sum, { length }) => sum + length, 0)).toBeLessThanOrEqual(48);
            seen.push(...row.map(({ length }) => length));
          }
          return packedPrefixBatch(
            rows.map((row) => row.map((ids) => ({ ids: [...ids], prefixLength: 0 }))),
            48,
          );
        },
      });
    const source = make();
    while (seen.length < 2 * documents.length) source.next();
    const lengths = documents.map(({ length }) => length).sort();
    expect(seen.slice(0, documents.length).sort()).toEqual(lengths);
    expect(seen.slice(documents.length, 2 * documents.length).sort()).toEqual(lengths);
    const { state } = source;
    const next = source.next();
    const again = make();
    again.restore(state);
    expect(again.next()).toEqual(next);
    expect(() => {
      again.restore({ pieces: 1, drawn: [1, 2] });
    }).toThrow("is not a place in these documents");
    seen.length = 0;
    Array.from(
      documentsOnce(documents, {
        ...own,
        collate: (rows: readonly (readonly Tokens[])[]) => {
          seen.push(...rows.flat().map(({ length }) => length));
          return next;
        },
      }),
    );
    expect(seen).toEqual(documents.map(({ length }) => length));
  });
});

describe("a tokenizer with more tokens", () => {
  it("keeps its ids, and reads the new tokens where they are spelled out", () => {
    const sentence = "once upon a time";
    expect(tokenizer.encode(sentence)).toEqual(plain.encode(sentence));
    expect(tokenizer.vocabSize).toBe(plain.vocabSize + sentinelsOf(tokenizer).length + 3);
    const ids = tokenizer.encode(`once<extra_id_0> time`);
    expect(ids).toContain(sentinelsOf(tokenizer)[0]);
    expect(tokenizer.decode(ids)).toBe("once time");
    expect(withTokens(tokenizer, ["[S2S]", "<extra_id_0>"])).toBe(tokenizer);
  });
});
