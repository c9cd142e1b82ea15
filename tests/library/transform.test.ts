import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, expectTypeOf, it } from "vitest";
import { Decoder, beamSearch } from "../../src/generation/index.js";
import { loadForInference } from "../../src/checkpoints/index.js";
import { type EncoderDecoderModel, createRuntime, load } from "../../src/index.js";
import { lineage } from "../support/cli.js";
import { Reference } from "../support/reference.js";
import { writeTinyBert } from "../support/tiny-encoder.js";
import { tokenizer, writeTinyTransformer } from "../support/tiny-transformer.js";

interface Generated {
  sources: number[][];
  cases: { options: Record<string, unknown>; sequences: number[][]; scores: number[] | null }[];
}
const { sources, cases } = (
  new Reference(".").json("generation.json") as { models: Record<string, Generated> }
).models["t5-gated-tiny"]!;
const texts = sources.map((ids) => tokenizer.decode(ids));
/** What transformers writes, without the start token, the end and the padding. */
const written = (options: Record<string, unknown>): string[] => {
  const wanted = { do_sample: false, max_new_tokens: 16, use_cache: false, ...options };
  const found = cases.find((one) => JSON.stringify(one.options) === JSON.stringify(wanted))!;
  return found.sequences.map((row) => {
    const end = row.indexOf(1);
    return tokenizer.decode(row.slice(1, end < 0 ? undefined : end));
  });
};

let root = "";
const place = (name: string): string => path.join(root, name);
beforeAll(async () => {
  root = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  await writeTinyTransformer(place("t5"), "t5-gated-tiny", { max_new_tokens: 16 });
  await writeTinyTransformer(place("beams"), "t5-gated-tiny", {
    num_beams: 4,
    max_new_tokens: 16,
    no_repeat_ngram_size: 1,
  });
  await writeTinyBert(place("bert"), "fill-mask");
});
afterAll(() => rm(root, { recursive: true }));

const whole = async (pieces: AsyncIterable<string>): Promise<string> => {
  let all = "";
  for await (const piece of pieces) all += piece;
  return all;
};

describe("a loaded encoder-decoder", () => {
  it("transforms texts in their order, by beams and greedily, as transformers does", async () => {
    using model = await load(place("t5"), { kind: "encoder-decoder" });
    expectTypeOf(model).toEqualTypeOf<EncoderDecoderModel>();
    expect(model.description).toBe("T5, an encoder-decoder");
    const greedy = await model.transform(texts);
    expect(greedy.map(({ text }) => text)).toEqual(written({ num_beams: 1 }));
    const found = await model.transform(texts, { beams: 4 });
    expect(found.map(({ text }) => text)).toEqual(written({ num_beams: 4 }));
    expect(found.map(({ sourceTokens, cutTokens }) => [sourceTokens, cutTokens])).toEqual(
      sources.map(({ length }) => [length, 0]),
    );
    const best = await model.transform(texts, { beams: 4, best: 4, lengthPenalty: 2, earlyStopping: true });
    expect(best.flatMap((each) => each.texts.map(({ text }) => text))).toEqual(
      written({ num_beams: 4, num_return_sequences: 4, length_penalty: 2.0, early_stopping: true }),
    );
  });

  it("writes by the model's own generation configuration where nothing else is asked for", async () => {
    using model = await load(place("beams"), { kind: "encoder-decoder", slots: 5 });
    const found = await model.transform(texts);
    expect(found.map(({ text }) => text)).toEqual(written({ num_beams: 4, no_repeat_ngram_size: 1 }));
  });

  it("streams a text, takes texts as they come, and leaves blank ones blank", async () => {
    using model = await load(place("t5"), { kind: "encoder-decoder" });
    const wanted = written({ num_beams: 1 });
    expect(await Promise.all(texts.map((text) => whole(model.stream(text))))).toEqual(wanted);
    const lines = async function* () {
      for (const text of texts) {
        yield text;
        await new Promise((resolve) => setImmediate(resolve));
        yield "  ";
      }
    };
    const found = [];
    for await (const { text } of model.transformEach(lines())) found.push(text);
    expect(found).toEqual(wanted.flatMap((text) => [text, ""]));
    const failing = async function* () {
      yield texts[0]!;
      await Promise.resolve();
      throw new Error("the line is cut");
    };
    await expect(
      (async () => {
        for await (const { text } of model.transformEach(failing())) expect(text).toBe(wanted[0]);
      })(),
    ).rejects.toThrow("the line is cut");
  });

  it("draws the same samples for the same seed, whatever else is transformed", async () => {
    using model = await load(place("t5"), { kind: "encoder-decoder", slots: 2 });
    const options = { temperature: 1.5, seed: 7, best: 2 };
    const both = await model.transform(texts, options);
    const [first] = await model.transform(texts.slice(0, 1), options);
    expect(first).toEqual(both[0]);
    expect(first!.texts[0]!.text).not.toBe(first!.texts[1]!.text);
  });

  it("cuts a source beyond the context and counts it, or splits it between sentences", async () => {
    using model = await load(place("t5"), { kind: "encoder-decoder" });
    const sentences = ["AB CD EF GH IJ KL.", "MN OP QR ST UV.", "WX YZ AB CD EF."];
    const [cut] = await model.transform([sentences.join(" ")]);
    expect(cut).toMatchObject({ cutTokens: 18, sourceTokens: 32, parts: 1 });
    const [split] = await model.transform([sentences.join(" ")], { long: "split" });
    const parts = await model.transform([sentences[0]!, `${sentences[1]!} ${sentences[2]!}`]);
    expect(split).toMatchObject({ cutTokens: 0, parts: 2 });
    // The space between the parts is read with the first of them.
    const [first] = await model.transform([`${sentences[0]!} `]);
    expect(split!.text).toBe(`${first!.text} ${parts[1]!.text}`);
  });

  it("gives with weights in 8 bits what a beam search over them gives", async () => {
    const runtime = createRuntime();
    const loaded = await loadForInference(runtime, place("t5"), {
      kind: "encoder-decoder",
      quantize: { bits: 8 },
    });
    expect(Object.keys(loaded.weights.constants.packed).length).toBeGreaterThan(0);
    using decoder = await Decoder.create({ ...loaded, beams: 2 });
    const [beam] = await beamSearch(decoder, { source: sources[0]! }, { maxNewTokens: 16, stopIds: [1] });
    loaded.weights.dispose();
    using model = await load(place("t5"), { kind: "encoder-decoder", quantize: 8 });
    const [found] = await model.transform(texts.slice(0, 1), { beams: 2 });
    expect(found!.text).toBe(tokenizer.decode(beam!.ids.filter((id) => id !== 1)));
  });

  it("refuses what does not go together, and models of other kinds, in words", async () => {
    using model = await load(place("t5"), { kind: "encoder-decoder" });
    await expect(model.transform(texts, { beams: 4, temperature: 0.7 })).rejects.toThrow(
      "beams looks for the likeliest text",
    );
    await expect(model.transform(texts, { best: 3 })).rejects.toThrow(
      "one beam finds one text: for the 3 best give beams 3 or more, or temperature to draw samples",
    );
    await expect(model.transform(texts, { noRepeatNgram: 0 })).rejects.toThrow("noRepeatNgram must be");
    using other = await load(place("bert"));
    await expect(other.transform(texts)).rejects.toThrow(
      /it does not transform, which needs an encoder-decoder/,
    );
    await expect(load(place("bert"), { kind: "encoder-decoder" })).rejects.toThrow(
      "holds an encoder, not an encoder-decoder",
    );
  });
});

describe("lineage transform", () => {
  it("transforms arguments, files and tables, with the best few and as JSON", async () => {
    const greedy = written({ num_beams: 1 });
    const one = await lineage("transform", "--model", place("t5"), texts[0]!);
    expect([one.status, one.stdout]).toEqual([0, `${greedy[0]!}\n`]);
    const several = await lineage("transform", "--model", place("t5"), ...texts, "--json", "--beams", "4");
    const lines = several.stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines.map(({ text }) => text)).toEqual(written({ num_beams: 4 }));
    expect(lines[0]).toMatchObject({ source: texts[0], cutTokens: 0, sourceTokens: sources[0]!.length });
    expect(lines[0]!["score"]).toBeCloseTo(
      cases.find(({ options }) => options["num_beams"] === 4 && Object.keys(options).length === 4)!
        .scores![0]!,
      3,
    );
    const file = place("sources.en");
    await writeFile(file, `${texts.join("\n")}\n${"A".repeat(40)}\n`);
    const out = place("out.txt");
    const filed = await lineage("transform", "--model", place("t5"), "--data", file, "--out", out);
    expect(filed.status).toBe(0);
    expect(filed.stderr).toContain("1 text was longer than the model reads: 8 tokens were left out");
    expect((await readFile(out, "utf8")).split("\n").slice(0, 3)).toEqual(greedy);
    const ranked = await lineage(
      "transform",
      "--model",
      place("t5"),
      texts[0]!,
      "--beams",
      "3",
      "--best",
      "2",
    );
    expect(ranked.stdout).toMatch(/^1\t-\d\.\d{4}\t.*\n2\t-\d\.\d{4}\t.*\n$/);
  });

  it("says what it cannot do", async () => {
    const refused = await lineage("transform", "--model", place("bert"), "text");
    expect(refused.status).toBe(1);
    expect(refused.stderr).toContain("holds an encoder, not an encoder-decoder");
    const wrong = await lineage("transform", "--model", place("t5"), "text", "--best", "2");
    expect(wrong.stderr).toContain("for the 2 best give --beams 2 or more, or --temperature to draw samples");
  });
});
