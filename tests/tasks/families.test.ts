import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import { Embedder, cosineSimilarity } from "../../src/search/index.js";
import { Predictor, finetune, EncoderProgram } from "../../src/tasks/index.js";
import { padRows } from "../../src/data/index.js";
import { trainUnigram, trainWordPiece } from "../../src/tokenizers/index.js";
import { networkForTask, encoderModelTypes, loadModel, saveModel } from "../../src/checkpoints/index.js";
import { encoderOf } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const random = new Random(11);
const pick = <T>(list: readonly T[]): T => list[random.integer(list.length)]!;
const nouns = ["film", "food", "song", "dog", "cat", "play"];
const rows = Array.from({ length: 200 }, () => {
  const label = pick(["good", "bad"]);
  return { text: `the ${pick(nouns)} ${pick(["", "really "])}was ${label} and ${pick(nouns)}`, label };
});

const common = {
  max_position_embeddings: 64,
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 64,
  initializer_range: 0.2,
  type_vocab_size: 2,
};
/** What a small `config.json` of each family says besides. */
const configs: Readonly<Record<string, Record<string, unknown>>> = {
  albert: { embedding_size: 16 },
  electra: { embedding_size: 16 },
  roberta: { max_position_embeddings: 66, pad_token_id: 0 },
  deberta: { relative_attention: true, pos_att_type: ["c2p", "p2c"], type_vocab_size: 0 },
  "deberta-v2": {
    relative_attention: true,
    pos_att_type: ["c2p", "p2c"],
    position_buckets: 16,
    share_att_key: true,
    norm_rel_ebd: "layer_norm",
    type_vocab_size: 0,
  },
  xlm: { n_langs: 1, emb_dim: 32, n_layers: 2, n_heads: 2, use_lang_emb: false, init_std: 0.2, pad_index: 0 },
  xlnet: { d_model: 32, n_layer: 2, n_head: 2, d_inner: 64, reuse_len: null, context_length: 64 },
};

let folder = "";
let data = "";
let tagged = "";
let answered = "";
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  data = path.join(folder, "rows.jsonl");
  await writeFile(data, rows.map((row) => JSON.stringify(row)).join("\n"));
  const sentences = Array.from({ length: 250 }, () => {
    const words = Array.from({ length: 4 + random.integer(12) }, () => pick([...nouns, "the", "was", "and"]));
    return { tokens: words, tags: words.map((word) => (["dog", "cat"].includes(word) ? "PET" : "O")) };
  });
  tagged = path.join(folder, "tags.jsonl");
  await writeFile(tagged, sentences.map((row) => JSON.stringify(row)).join("\n"));
  const contexts = Array.from({ length: 300 }, () => {
    const words = Array.from({ length: 3 + random.integer(8) }, () =>
      pick(["film", "food", "song", "was", "the"]),
    );
    const answer = pick(["dog", "cat"]);
    words[random.integer(words.length)] = answer;
    return { question: "is it a dog or a cat", context: words.join(" "), answer };
  });
  answered = path.join(folder, "answers.jsonl");
  await writeFile(answered, contexts.map((row) => JSON.stringify(row)).join("\n"));
});
afterAll(() => rm(folder, { recursive: true }));

async function writeModel(type: string): Promise<string> {
  const texts = rows.map(({ text }) => text);
  const tokenizer =
    type === "xlnet"
      ? trainUnigram(texts, { vocabSize: 60, style: "xlnet" })
      : trainWordPiece(texts, { vocabSize: 90 });
  const config = { model_type: type, vocab_size: tokenizer.vocabSize, ...common, ...configs[type] };
  const model = networkForTask(config, "fill-mask");
  const place = path.join(folder, type);
  await mkdir(place);
  using runtime = createRuntime();
  using weights = Weights.initialize(runtime, model, 5);
  await saveModel(place, {
    system: encoderOf(config),
    model,
    weights,
    tokenizer,
    head: "fill-mask",
  });
  return place;
}

describe.each(encoderModelTypes)("%s", (type) => {
  it("fine-tunes, and answers in a batch as it answers alone", async () => {
    const model = await writeModel(type);
    const out = path.join(folder, `${type}-tuned`);
    const { metrics } = await finetune({
      ...{ model, task: "classify", data, out, validation: 0.2 },
      ...{ epochs: 8, batch: 8, learningRate: 2e-3, freezeEmbeddings: true },
      // ALBERT's layers share their parameters: no one of them learns more slowly than another.
      ...(type !== "albert" && { layerDecay: 0.9 }),
    });
    expect(metrics!["accuracy"]).toBeGreaterThan(0.9);
    using predictor = await Predictor.load(out);
    const text = "the dog was bad and cat";
    const [alone] = await predictor.predict([text]);
    const [, among] = await predictor.predict([
      "the film really was good and film and song and dog and play",
      text,
    ]);
    expect(alone.label).toBe("bad");
    expect(among.probability).toBeCloseTo(alone.probability!, 4);
  });

  it("tags words and finds answers, whichever side is padded", async () => {
    const model = path.join(folder, type);
    const tuned = { model, validation: 0.2, epochs: 8, batch: 8, learningRate: 2e-3 } as const;
    const tags = path.join(folder, `${type}-tag`);
    await finetune({ ...tuned, task: "tag", data: tagged, out: tags });
    using tagger = await Predictor.load(tags);
    const words = "the dog and the film was the cat".split(" ");
    const marks = words.map((word) => (["dog", "cat"].includes(word) ? "PET" : "O"));
    const [, tagged2] = await tagger.predict([
      { text: "", words: [...words, ...words, "film"] },
      { text: "", words },
    ]);
    expect(tagged2!.tags).toEqual(marks);
    const spans = path.join(folder, `${type}-span`);
    const { metrics } = await finetune({ ...tuned, task: "span", data: answered, out: spans, epochs: 12 });
    expect(metrics!["exactMatch"]).toBeGreaterThan(0.8);
  });

  it("embeds a text in a batch as alone", async () => {
    using embedder = await Embedder.load(path.join(folder, type));
    const [alone] = await embedder.embed([rows[0]!.text]);
    const [, among] = await embedder.embed([`${rows[1]!.text} ${rows[2]!.text}`, rows[0]!.text]);
    expect(cosineSimilarity(alone!, among!)).toBeGreaterThan(0.99999);
  });

  it("says how many tokens it reads when a program is given more", async () => {
    using runtime = createRuntime();
    const { model: encoder, weights } = await loadModel(runtime, path.join(folder, type), {
      kind: "encoder",
    });
    using program = await EncoderProgram.create(encoder, weights, (inputs) => ({
      hidden: encoder.encode(inputs),
    }));
    const rowOf = (length: number) => {
      const ids = Array<number>(length).fill(7);
      return padRows([{ ids, typeIds: ids.map(() => 0) }], { padId: 0, left: false });
    };
    const known = encoder.config.contextLength;
    const { hidden } = await program.run(rowOf(known));
    expect(hidden.shape).toEqual([1, known, 32]);
    const longer = program.run(rowOf(known + 1));
    // XLNet's positions are relative to no table, and know no end.
    if (type === "xlnet")
      await expect(longer).resolves.toMatchObject({ hidden: { shape: [1, known + 1, 32] } });
    else {
      await expect(longer).rejects.toMatchObject({ code: "length" });
      await expect(longer).rejects.toThrow(`encoder: sequence is ${known + 1}, but at most ${known} fit: `);
    }
    weights.dispose();
  });
});
