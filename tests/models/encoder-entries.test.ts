import { describe, expect, it } from "vitest";
import { crossEntropy } from "../../src/graph/index.js";
import { bert, bertForMaskedLm, encoderOf, systemsOfKind, xlm, xlnet } from "../../src/models/index.js";
import { Weights, namedParameters } from "../../src/nn/index.js";
import { encoderInputs, expectAgreement, recorded, referenceJson, runtime } from "./encoders.js";

type Json = Record<string, unknown>;
const versions = [4, 5].map(
  (version) =>
    referenceJson(`config-entries-${version}.json`) as {
      transformers: string;
      entries: Record<string, Json>;
    },
);
const encoders = systemsOfKind("encoder").filter(({ name }) => name !== "unilm");
const cases = versions.flatMap(({ transformers, entries }) =>
  encoders.map((system) => ({ system, transformers, name: system.name, entries: entries[system.type]! })),
);

describe.each(cases)("the config.json that transformers $transformers writes of $name", (written) => {
  const { system, entries } = written;

  it("has no entry that is dropped", () => {
    const unknown = Object.keys(entries).filter((name) => system.config.meaningOf(name) === undefined);
    expect(unknown).toEqual([]);
    const warnings: string[] = [];
    system.config.read(entries, (sentence) => warnings.push(sentence));
    expect(warnings).toEqual([]);
  });

  it("is read with the values that it has", () => {
    const config = system.config.read(entries);
    const again = system.config.write(config);
    const effective = (name: string) => typeof system.config.meaningOf(name) === "string";
    // With one language there are no embeddings of languages, whatever is said.
    if (entries["n_langs"] === 1) delete again["use_lang_emb"];
    for (const [name, value] of Object.entries(again).filter(([name]) => effective(name)))
      if (name in entries && entries[name] !== null && entries[name] !== "" && entries[name] !== -1)
        expect([name, value]).toEqual([name, entries[name]]);
  });

  it("is refused where an entry asks for a network that is not computed", () => {
    for (const name of Object.keys(entries)) {
      if (system.config.meaningOf(name) !== "refused") continue;
      expect(() => system.config.read({ ...entries, [name]: "something else" }), name).toThrow(name);
    }
  });
});

describe("an entry that changes the network", () => {
  it.each([
    ["bert", { is_decoder: true }, "is_decoder"],
    ["bert", { position_embedding_type: "relative_key_query" }, "position_embedding_type"],
    ["albert", { position_embedding_type: "relative_key" }, "position_embedding_type"],
    ["electra", { summary_type: "last" }, "summary_type"],
    ["electra", { add_cross_attention: true }, "add_cross_attention"],
    ["roberta", { pruned_heads: { "0": [1] } }, "pruned_heads"],
    ["deberta", { legacy: false }, "legacy"],
    ["deberta", { pooler_hidden_size: 17 }, "pooler_hidden_size is 17"],
    ["deberta-v2", { conv_groups: 2 }, "conv_groups"],
    ["deberta-v2", { embedding_size: 3 }, "embedding_size is 3"],
    ["xlm", { asm: true }, "asm"],
    ["xlm", { is_encoder: false }, "is_encoder"],
    ["xlnet", { same_length: true }, "same_length"],
    ["xlnet", { d_head: 3 }, "d_head is 3"],
  ])("is refused in %s: %o", (type, entries, message) => {
    const small = referenceJson(`${type}/config.json`) as Json;
    expect(() => encoderOf(small).config.read({ ...small, ...entries })).toThrow(message);
  });

  it("is without effect where it only chooses a way to compute", () => {
    const small = referenceJson("bert/config.json") as Json;
    const { config } = bert;
    expect(config.read({ ...small, chunk_size_feed_forward: 4, use_cache: false })).toEqual(
      config.read(small),
    );
  });
});

const { sinusoids, untied } = referenceJson("encoder-entries.json") as {
  sinusoids: readonly number[];
  untied: Record<string, { config: Json; parameters: Record<string, number[]> }>;
};

describe("tie_word_embeddings: false", () => {
  it.each(Object.entries(untied))("gives %s transformers' parameters", (_, { config, parameters }) => {
    const system = encoderOf(config);
    const model = system.heads["fill-mask"].create(system.config.read(config), 2);
    const found = Object.fromEntries([...namedParameters(model)].map(([name, { shape }]) => [name, shape]));
    expect(found).toEqual(parameters);
  });

  it("predicts words by a matrix of its own", async () => {
    const config = bert.config.read(untied["bert"]!.config);
    const model = bertForMaskedLm(config);
    await expectAgreement(await recorded("bert/untied.safetensors"), model, (given) => {
      const logits = model.forward(encoderInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    });
  });
});

describe("positions that are sinusoids", () => {
  const small = referenceJson("xlm/config.json") as Json;
  const config = xlm.config.read({ ...small, n_langs: 1, sinusoidal_embeddings: true });

  it("are read from the file, and computed as transformers does", async () => {
    const model = xlm.heads.classify.create(config, 3);
    await expectAgreement(await recorded("xlm/sinusoidal.safetensors"), model, (given) => {
      const logits = model.forward(encoderInputs(given));
      return { logits, loss: crossEntropy(logits, given["labels"]!) };
    });
  });

  it("begin as transformers' and do not learn", () => {
    const model = xlm.create(config, { pooler: false });
    using weights = Weights.initialize(runtime, model, 1);
    const values = weights.get("position_embeddings.weight").view() as Float32Array;
    expect(values.length).toBe(sinusoids.length);
    values.forEach((value, index) => {
      expect(Math.abs(value - sinusoids[index]!)).toBeLessThan(2e-6);
    });
    expect(namedParameters(model).get("position_embeddings.weight")!.trainable).toBe(false);
  });
});

it("XLNet with attn_type uni looks back alone", async () => {
  const small = referenceJson("xlnet/config.json") as Json;
  const config = xlnet.config.read({ ...small, mem_len: 512, reuse_len: null, attn_type: "uni" });
  expect(xlnet.config.write(config)["attn_type"]).toBe("uni");
  const model = xlnet.heads.tag.create(config, 3);
  await expectAgreement(await recorded("xlnet/uni.safetensors"), model, (given) => {
    const logits = model.forward(encoderInputs(given));
    return { logits, loss: crossEntropy(logits, given["labels"]!) };
  });
});
