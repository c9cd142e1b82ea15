import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import {
  Decoder,
  type RuleOptions,
  beamSearch,
  distribution,
  draw,
  generate,
} from "../../src/generation/index.js";
import { loadWeights } from "../../src/formats/index.js";
import { systemOf } from "../../src/models/index.js";
import type { EncoderDecoder, Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { Reference } from "../support/reference.js";

const runtime = createRuntime({ threads: 1 });

/** Options of transformers' `generate`. */
interface Options {
  num_beams: number;
  max_new_tokens: number;
  num_return_sequences?: number;
  length_penalty?: number;
  early_stopping?: boolean | "never";
  no_repeat_ngram_size?: number;
  min_new_tokens?: number;
  min_length?: number;
  forced_bos_token_id?: number;
  forced_eos_token_id?: number[];
  bad_words_ids?: number[][];
  suppress_tokens?: number[];
  begin_suppress_tokens?: number[];
  repetition_penalty?: number;
  eos_token_id?: number[];
}

interface Case {
  options: Options;
  /** Row by row, as many as were asked for of each source; padded. */
  sequences: number[][];
  scores: number[] | null;
}

interface Model {
  sources: number[][];
  cases: Case[];
  warped: {
    options: { temperature?: number; top_k?: number; top_p?: number };
    probabilities: number[];
  }[];
}

const { models } = new Reference(".").json("generation.json") as { models: Record<string, Model> };

async function load(name: string): Promise<{ model: EncoderDecoder; weights: Weights; end: number }> {
  const reference = new Reference(name);
  const json = reference.json("config.json") as { eos_token_id: number };
  const system = systemOf(json);
  if (system.kind !== "encoder-decoder") throw new Error(`${name} is no encoder-decoder`);
  const model = system.create(system.config.read(json));
  return { model, weights: await loadWeights(runtime, model, reference.path()), end: json.eos_token_id };
}

const rulesOf = (options: Options): RuleOptions => ({
  // Lengths count the start token there.
  minNewTokens: options.min_new_tokens ?? (options.min_length ?? 1) - 1,
  noRepeatNgram: options.no_repeat_ngram_size,
  banned: [...(options.bad_words_ids ?? []), ...(options.suppress_tokens ?? []).map((id) => [id])],
  bannedFirst: options.begin_suppress_tokens,
  forcedFirst: options.forced_bos_token_id,
  forcedLast: options.forced_eos_token_id,
});

describe.each(Object.keys(models))("%s writes what transformers writes", (name) => {
  const { sources, cases, warped } = models[name]!;

  it("under every option of a generation configuration", async () => {
    const { model, weights, end } = await load(name);
    for (const { options, sequences, scores } of cases) {
      const { num_beams: numBeams, max_new_tokens: maxNewTokens, num_return_sequences: count = 1 } = options;
      const stopIds = options.eos_token_id ?? [end];
      const shared = {
        ...rulesOf(options),
        maxNewTokens,
        stopIds,
        repetitionPenalty: options.repetition_penalty ?? 1,
      };
      const wanted = sequences.map((row) => {
        const place = row.findIndex((id, index) => index > 0 && stopIds.includes(id));
        return row.slice(1, place < 0 ? 1 + maxNewTokens : place + 1);
      });
      using decoder = await Decoder.create({ model, weights, slots: 2, beams: numBeams, capacity: 30 });
      const what = JSON.stringify(options);
      if (numBeams === 1) {
        const found: number[][] = sources.map(() => []);
        const prompts = sources.map((source) => ({ source }));
        for await (const { row, id } of generate(decoder, prompts, { ...shared, temperature: 0 }))
          if (id !== undefined) found[row]!.push(id);
        expect(found, what).toEqual(wanted.map((row) => row.filter((id) => !stopIds.includes(id))));
        continue;
      }
      const found = await Promise.all(
        sources.map((source) =>
          beamSearch(
            decoder,
            { source },
            {
              ...shared,
              numReturned: count,
              lengthPenalty: options.length_penalty,
              earlyStopping: options.early_stopping,
            },
          ),
        ),
      );
      expect(
        found.flat().map(({ ids }) => ids),
        what,
      ).toEqual(wanted);
      for (const [index, { score }] of found.flat().entries())
        expect(score, what).toBeCloseTo(scores![index]!, 3);
    }
    weights.dispose();
  });

  it("in the distributions that temperature, top-k and top-p leave", async () => {
    const { model, weights } = await load(name);
    using decoder = await Decoder.create({ model, weights, slots: 100, capacity: 30 });
    const source = sources[0]!;
    const slot = decoder.open();
    const begin = [model.config.decoderStartTokenId];
    const logits = (await decoder.read(slot, { source, begin })).slice();
    slot.close();
    for (const [index, { options, probabilities }] of warped.entries()) {
      const sampling = {
        temperature: options.temperature ?? 1,
        ...(options.top_k !== undefined && { topK: options.top_k }),
        topP: options.top_p ?? 1,
      };
      const found = new Float64Array(probabilities.length);
      const left = distribution(logits, sampling);
      left.ids.forEach((id, place) => (found[id] = left.probabilities[place]!));
      for (const [id, wanted] of probabilities.entries()) expect(found[id]).toBeCloseTo(wanted, 4);
      // The first token of many texts, against what transformers leaves: Pearson's chi-square.
      const counts = new Map<number, number>();
      const draws = 1500;
      const prompts = Array.from({ length: draws }, () => ({ source }));
      for await (const { id } of generate(decoder, prompts, { ...sampling, maxNewTokens: 1, seed: index }))
        if (id !== undefined) counts.set(id, (counts.get(id) ?? 0) + 1);
      expectDrawnFrom(probabilities, counts, draws);
    }
    weights.dispose();
  });
});

/** Pearson's chi-square; rare tokens count as one. */
function expectDrawnFrom(
  probabilities: readonly number[],
  counts: ReadonlyMap<number, number>,
  draws: number,
): void {
  let [statistic, cells, restWanted, restFound] = [0, 0, 0, 0];
  for (const [id, probability] of probabilities.entries()) {
    const [wanted, found] = [probability * draws, counts.get(id) ?? 0];
    if (probability === 0) expect(found, `${id} is left out`).toBe(0);
    if (wanted < 5) {
      restWanted += wanted;
      restFound += found;
      continue;
    }
    statistic += (found - wanted) ** 2 / wanted;
    cells++;
  }
  if (restWanted >= 5) {
    statistic += (restFound - restWanted) ** 2 / restWanted;
    cells++;
  }
  const freedom = Math.max(1, cells - 1);
  // The 99.99% quantile, by Wilson and Hilferty 1931.
  const third = 2 / (9 * freedom);
  expect(statistic).toBeLessThan(freedom * (1 - third + 3.72 * Math.sqrt(third)) ** 3);
}

it("a draw follows its distribution", () => {
  const probabilities = [0.5, 0.3, 0.15, 0.05];
  const random = new Random(3);
  const counts = new Map<number, number>();
  for (let i = 0; i < 5000; i++) {
    const id = draw(
      { ids: Uint32Array.of(0, 1, 2, 3), probabilities: Float64Array.from(probabilities) },
      random,
    );
    counts.set(id, (counts.get(id) ?? 0) + 1);
  }
  expectDrawnFrom(probabilities, counts, 5000);
});
