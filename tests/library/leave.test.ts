import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import {
  AutoModel,
  AutoModelForMaskedLM,
  AutoModelForQuestionAnswering,
  AutoModelForSequenceClassification,
  AutoModelForTokenClassification,
  Tensor as PeerTensor,
  env,
  pipeline,
} from "@huggingface/transformers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encoderProbe, saveModel } from "../../src/checkpoints/index.js";
import { exportEncoder, quantizeEncoderFolder } from "../../src/library/leave.js";
import { encoderOf } from "../../src/models/index.js";
import type { HeadName } from "../../src/nn/index.js";
import { Embedder, cosineSimilarity } from "../../src/search/index.js";
import { MaskFiller, Predictor } from "../../src/tasks/index.js";
import { trainWordPiece } from "../../src/tokenizers/index.js";
import { recorded, referenceJson, relativeError, runtime, weightsOf } from "../models/encoders.js";
import { lineage } from "../support/cli.js";
import { sentences, writeTinyBert } from "../support/tiny-encoder.js";

const reference = (name: string) => path.join(import.meta.dirname, "../reference/values", name);
let folder: string;
const at = (...names: string[]) => path.join(folder, ...names);
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  env.allowRemoteModels = false;
  env.localModelPath = folder;
});
afterAll(() => rm(folder, { recursive: true }));

type Outputs = Record<string, PeerTensor>;
interface Peer {
  (inputs: Record<string, PeerTensor>): Promise<Outputs>;
  dispose(): Promise<unknown>;
}
const tasks: readonly [string, HeadName, { from_pretrained: typeof AutoModel.from_pretrained }][] = [
  ["maskedLm", "fill-mask", AutoModelForMaskedLM],
  ["sequence", "classify", AutoModelForSequenceClassification],
  ["token", "tag", AutoModelForTokenClassification],
  ["span", "span", AutoModelForQuestionAnswering],
  ["choice", "choice", AutoModel],
];
/** What PyTorch's numbers were recorded of; languages of XLM are no inputs of the field's exports. */
const cases = ["bert", "albert", "roberta", "electra", "deberta", "deberta-v2", "xlm", "xlnet"].flatMap(
  (name) =>
    tasks
      .filter(([file]) => existsSync(reference(`${name}/${file}.safetensors`)))
      .filter(([file]) => name !== "xlm" || file === "span" || file === "choice")
      .map(([file, head, auto]) => ({
        ...{ name, file, head },
        // It has no classes for these, and takes them for encoders all the same.
        auto: name === "xlnet" || (name === "albert" && head === "tag") ? AutoModel : auto,
      })),
);

/** What of the values of `[batch, sequence, ...]` belongs to tokens that are no padding. */
const atTokens = (values: ArrayLike<number>, mask: ArrayLike<number>): number[] =>
  Array.from(values).filter((_, index) => mask[Math.floor(index / (values.length / mask.length))] === 1);

describe("an encoder exported, in transformers.js", () => {
  it("of every family is among the cases", () => {
    expect(new Set(cases.map(({ head }) => head)).size).toBe(5);
    expect(new Set(cases.map(({ name }) => name)).size).toBe(8);
  });

  it.each(cases)("gives PyTorch's numbers: $name, $head", async ({ name, file, head, auto }) => {
    const task = await recorded(`${name}/${file}.safetensors`);
    const json = referenceJson(`${name}/config.json`) as Record<string, unknown>;
    const system = encoderOf(json);
    const model = system.heads[head].create(
      system.config.read(json),
      head === "classify" || head === "tag" ? 3 : 2,
    );
    using weights = weightsOf(model, task);
    const tokenizer = trainWordPiece(["a b"], { vocabSize: 12 });
    const [source, out] = [at(`${name}-${file}`), `${name}-${file}-onnx`];
    await saveModel(source, { system, model, weights, tokenizer, head, labels: undefined });
    const compared = await exportEncoder(runtime, source, at(out), ["fp32"]);
    expect(compared.get("fp32")!.relativeError).toBeLessThan(1e-5);

    const peer = (await auto.from_pretrained(out)) as unknown as Peer;
    const inputs = Object.fromEntries(
      [...task.inputs]
        .filter(([input]) => ["input_ids", "attention_mask", "token_type_ids"].includes(input))
        .map(([input, { shape, data }]) => [
          input,
          new PeerTensor("int64", BigInt64Array.from(Array.from(data, BigInt)), [...shape]),
        ]),
    );
    const outputs = await peer(inputs);
    await peer.dispose();
    const mask = task.inputs.get("attention_mask")!.data;
    const perToken = ["fill-mask", "tag", "span"].includes(head);
    for (const output of head === "span" ? ["start_logits", "end_logits"] : ["logits"]) {
      const wanted = task.outputs.get(output)!;
      expect(outputs[output]!.dims, output).toEqual([...wanted.shape]);
      const real = (values: ArrayLike<number>) => (perToken ? atTokens(values, mask) : Array.from(values));
      expect(relativeError(real(outputs[output]!.data as Float32Array), real(wanted.data))).toBeLessThan(
        1e-4,
      );
    }
  });
});

describe("a folder of sentence-transformers", () => {
  const { texts, vectors } = referenceJson("sentence-vectors/vectors.json") as {
    texts: string[];
    vectors: Record<string, number[][]>;
  };
  const from = reference("sentence-vectors");
  beforeAll(async () => {
    for (const name of ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
      await cp(path.join(from, name), at("sentences", name), { recursive: true });
    const write = async (name: string, json: unknown) => {
      await mkdir(path.dirname(at("sentences", name)), { recursive: true });
      await writeFile(at("sentences", name), JSON.stringify(json));
    };
    await write(
      "modules.json",
      ["Transformer", "Pooling", "Dense", "Normalize"].map((kind, idx) => ({
        ...{ idx, name: String(idx), path: idx === 0 ? "" : `${idx}_${kind}` },
        type: `sentence_transformers.models.${kind}`,
      })),
    );
    await write("1_Pooling/config.json", { word_embedding_dimension: 16, pooling_mode_mean_tokens: true });
    await write("2_Dense/config.json", {
      ...{ in_features: 16, out_features: 5, bias: true },
      activation_function: "torch.nn.modules.activation.Tanh",
    });
    await cp(path.join(from, "dense.safetensors"), at("sentences/2_Dense/model.safetensors"));
  });

  it("gives sentence-transformers' vectors in transformers.js", async () => {
    await exportEncoder(runtime, at("sentences"), at("sentences-onnx"), ["fp32"]);
    const config = JSON.parse(await readFile(at("sentences-onnx/tokenizer_config.json"), "utf8")) as object;
    expect(config).toMatchObject({ model_max_length: 16 });
    // transformers.js leaves out the last token, too, of a text that it cuts.
    const whole = texts.flatMap((text, place) => (text.split(" ").length < 14 ? [place] : []));
    const short = whole.map((place) => texts[place]!);
    const wanted = (name: string) => Float32Array.from(whole.flatMap((place) => vectors[name]![place]!));
    const extractor = await pipeline("feature-extraction", "sentences-onnx");
    const inputs = (await extractor.tokenizer(short, { padding: true, truncation: true })) as Record<
      string,
      PeerTensor
    >;
    const outputs = (await extractor.model(inputs)) as Outputs;
    const found = outputs["sentence_embedding"]!;
    expect(found.dims).toEqual([short.length, 5]);
    expect(relativeError(found.data as Float32Array, wanted("denseNormalize"))).toBeLessThan(1e-4);
    const mean = await extractor(short, { pooling: "mean" });
    expect(relativeError(mean.data as Float32Array, wanted("mean"))).toBeLessThan(1e-4);
    await extractor.dispose();
  });

  it("keeps its modules when it is quantised", async () => {
    const { comparison } = await quantizeEncoderFolder(runtime, at("sentences"), at("sentences-8"), {
      bits: 8,
    });
    expect(comparison.cosine!.least).toBeGreaterThan(0.99);
    using embedder = await Embedder.load(at("sentences-8"), { runtime });
    const found = await embedder.embed(texts);
    found.forEach((vector, place) => {
      const wanted = Float32Array.from(vectors["denseNormalize"]![place]!);
      expect(vector).toHaveLength(5);
      expect(cosineSimilarity(vector, wanted)).toBeGreaterThan(0.999);
    });
  });
});

describe("an encoder with a head", () => {
  const text = "the good film was [MASK] and good";
  beforeAll(async () => {
    await writeTinyBert(at("words"));
    await writeTinyBert(at("classes"), "classify", 3);
    const config = JSON.parse(await readFile(at("classes/config.json"), "utf8")) as object;
    const id2label = { 0: "bad", 1: "fair", 2: "good" };
    await writeFile(at("classes/config.json"), JSON.stringify({ ...config, id2label }));
    await writeFile(
      at("classes/task.json"),
      JSON.stringify({ task: "classify", maxLength: 12, stride: 3, threshold: 0.1 }),
    );
  });

  it("answers in transformers.js's pipelines as here, in every dtype", async () => {
    await exportEncoder(runtime, at("words"), at("words-onnx"), ["fp32", "fp16", "q8", "q4"]);
    using filler = await MaskFiller.load(at("words"), { runtime });
    const [own] = await filler.fill(text, { topK: 3 });
    for (const [dtype, digits] of [
      ["fp32", 5],
      ["fp16", 3],
      ["q8", 2],
    ] as const) {
      const peer = await pipeline("fill-mask", "words-onnx", { dtype });
      const found = (await peer(text, { top_k: 3 })) as unknown as { token: number; score: number }[];
      expect(found.map(({ token }) => token)).toEqual(own!.map(({ id }) => id));
      found.forEach(({ score }, place) => {
        expect(score).toBeCloseTo(own![place]!.probability, digits);
      });
      await peer.dispose();
    }
  });

  it("has its labels in transformers.js, and numbers where nobody named them", async () => {
    const numbered = { ...(JSON.parse(await readFile(at("classes/config.json"), "utf8")) as object) };
    await cp(at("classes"), at("numbered"), { recursive: true });
    await writeFile(at("numbered/config.json"), JSON.stringify({ ...numbered, id2label: undefined }));
    for (const [name, pattern] of [
      ["classes", /^(bad|fair|good)$/],
      ["numbered", /^LABEL_[0-2]$/],
    ] as const) {
      await exportEncoder(runtime, at(name), at(`${name}-onnx`), ["fp32"]);
      using predictor = await Predictor.load(at(name), { runtime });
      const peer = await pipeline("text-classification", `${name}-onnx`);
      for (const sentence of sentences.slice(0, 5)) {
        const [own] = await predictor.predict([sentence]);
        const [found] = (await peer(sentence)) as { label: string; score: number }[];
        expect(found!.label).toMatch(pattern);
        expect(found!.label).toBe(own.label);
        expect(found!.score).toBeCloseTo(own.probability!, 5);
      }
      await peer.dispose();
    }
  });

  it("fills masks and predicts from 8 and 4 bits nearly as in full", async () => {
    using full = await MaskFiller.load(at("words"), { runtime });
    const [wanted] = await full.fill(text, { topK: 90 });
    for (const [scheme, digits] of [
      [{ bits: 8 }, 2],
      [{ bits: 8, blockSize: "row" }, 2],
      [{ bits: 4 }, 1],
    ] as const) {
      await quantizeEncoderFolder(runtime, at("words"), at("words-few"), scheme);
      using filler = await MaskFiller.load(at("words-few"), { runtime });
      const [found] = await filler.fill(text, { topK: 90 });
      const probability = new Map(found!.map((filling) => [filling.id, filling.probability]));
      for (const one of wanted!) expect(probability.get(one.id)!).toBeCloseTo(one.probability, digits);
    }
    await quantizeEncoderFolder(runtime, at("classes"), at("classes-8"), { bits: 8 });
    using source = await Predictor.load(at("classes"), { runtime });
    using predictor = await Predictor.load(at("classes-8"), { runtime });
    expect(predictor.labels).toEqual(["bad", "fair", "good"]);
    // What fine-tuning chose stays.
    expect(predictor.threshold).toBe(0.1);
    const [own, few] = [await source.predict(sentences), await predictor.predict(sentences)];
    own.forEach(({ probabilities }, place) => {
      for (const [label, value] of Object.entries(probabilities!))
        expect(few[place]!.probabilities![label]).toBeCloseTo(value, 1);
    });
  });

  it("embeds from a quantised folder with a head what it embeds from the whole one", async () => {
    await quantizeEncoderFolder(runtime, at("words"), at("words-8"), { bits: 8 });
    using full = await Embedder.load(at("words"), { runtime });
    using few = await Embedder.load(at("words-8"), { runtime });
    const [a, b] = [await full.embed(sentences), await few.embed(sentences)];
    a.forEach((vector, place) => {
      expect(cosineSimilarity(vector, b[place]!)).toBeGreaterThan(0.999);
    });
  });

  it("loads in whichever float its file has", async () => {
    using full = await MaskFiller.load(at("words"), { runtime });
    const [wanted] = await full.fill(text);
    for (const [dtype, digits] of [
      ["float16", 3],
      ["bfloat16", 1],
    ] as const) {
      const { status, stderr } = await lineage("convert", at("words"), at(dtype), "--dtype", dtype);
      expect([status, stderr]).toEqual([0, ""]);
      using filler = await MaskFiller.load(at(dtype), { runtime });
      const [found] = await filler.fill(text);
      expect(found![0]!.id).toBe(wanted![0]!.id);
      expect(found![0]!.probability).toBeCloseTo(wanted![0]!.probability, digits);
      // From 16 bits it leaves as from 32.
      const compared = await exportEncoder(runtime, at(dtype), at(`${dtype}-onnx`), ["fp32"]);
      expect(compared.get("fp32")!.relativeError).toBeLessThan(1e-5);
    }
  });
});

describe("the command line", () => {
  it("quantises an encoder to 8 bits where nothing else is said, and tells what that changed", async () => {
    const { stdout, stderr, status } = await lineage("quantize", "--model", at("words"), "--out", at("few"));
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/matrices quantised, \d+ tensors in full precision/);
    expect(stdout).toMatch(/logits +differ by [\d.]+ % of their size/);
    expect(stdout).toMatch(/answers +\d+ of \d+ are the same/);
    const again = await lineage("quantize", "--model", at("few"), "--out", at("fewer"), "--bits", "4");
    expect(again.stderr).toContain("is quantised: it can be run, but training");
    const tune = await lineage(
      ...["finetune", "--model", at("few"), "--task", "classify"],
      ...["--data", at("none.csv"), "--out", at("run")],
    );
    expect(tune.status).toBe(1);
  });

  it("writes one ONNX file with the same numbers, and compares", async () => {
    const { stdout, status } = await lineage("convert", at("classes"), at("classes.onnx"), "--json");
    expect(status).toBe(0);
    const result = JSON.parse(stdout) as { relativeError: number; answers: unknown; problems: unknown };
    expect(result.relativeError).toBeLessThan(1e-5);
    expect(result).toMatchObject({
      answers: { same: encoderProbe.length, all: encoderProbe.length },
      problems: [],
    });
  });

  it("exports what it is asked for, and says what it cannot", async () => {
    const made = await lineage("export", "--model", at("words"), "--out", at("asked"), "--dtype", "q8, fp16");
    expect(made.status).toBe(0);
    expect(made.stderr).toContain("model_quantized.onnx, compared with");
    const config = JSON.parse(await readFile(at("asked/config.json"), "utf8")) as Record<string, unknown>;
    expect(config["transformers.js_config"]).toEqual({ use_external_data_format: true, dtype: "q8" });
    const wrong = await lineage("export", "--model", at("words"), "--out", at("asked"), "--dtype", "int9");
    expect(wrong.stderr).toContain("--dtype must be fp32, fp16, q8 or q4, or several with commas between");
    const gguf = await lineage("convert", at("words"), at("words.gguf"));
    expect(gguf.stderr).toContain("writes GGUF files of language models");
  });
});

const minilm = process.env["LINEAGE_MINILM"];
describe.skipIf(minilm === undefined)("all-MiniLM-L6-v2 (needs its folder in LINEAGE_MINILM)", () => {
  const minilmValues = referenceJson("minilm.json") as { texts: string[]; vectors: number[][] };

  it("gives sentence-transformers' vectors in transformers.js, and nearly so in fewer bits", async () => {
    const compared = await exportEncoder(runtime, minilm!, at("minilm"), ["fp32", "fp16", "q8"]);
    expect(compared.get("q8")!.cosine!.least).toBeGreaterThan(0.995);
    for (const [dtype, least] of [
      ["fp32", 0.9999],
      ["fp16", 0.9999],
      ["q8", 0.99],
    ] as const) {
      const extractor = await pipeline("feature-extraction", "minilm", { dtype });
      for (const [place, text] of minilmValues.texts.entries()) {
        // Of a text that it cuts, transformers.js leaves out the last token, too.
        const found = await extractor(text, { pooling: "mean", normalize: true });
        const wanted = Float32Array.from(minilmValues.vectors[place]!);
        expect(
          cosineSimilarity(found.data as Float32Array, wanted),
          `${dtype} ${text.slice(0, 40)}`,
        ).toBeGreaterThan(text.length > 1000 ? 0.99 : least);
      }
      await extractor.dispose();
    }
  });

  it("finds the same passages in 8 bits", async () => {
    await quantizeEncoderFolder(runtime, minilm!, at("minilm-8"), { bits: 8 });
    using embedder = await Embedder.load(at("minilm-8"), { runtime });
    const found = await embedder.embed(minilmValues.texts);
    found.forEach((vector, place) => {
      expect(
        cosineSimilarity(vector, Float32Array.from(minilmValues.vectors[place]!)),
        minilmValues.texts[place]!.slice(0, 40),
      ).toBeGreaterThan(0.995);
    });
  });
});
