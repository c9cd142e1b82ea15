import path from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import {
  ConstraintCompiler,
  type ConstraintRule,
  Decoder,
  type Drafter,
  type GenerateOptions,
  generate,
  type GeneratedToken,
  promptLookup,
} from "../../src/generation/index.js";
import { Tokenizer, trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { Llama, llamaConfig } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { loadSentencePiece } from "../../src/formats/index.js";

const runtime = createRuntime({ threads: 1 });
const text = 'the cat {"name": "Tom", "age": 3, "tags": ["a", "b"], "ok": true} 日本 null -1.5e3\n'.repeat(
  20,
);
const spiece = fileURLToPath(
  new URL("../reference/values/sentencepiece/unigramBytes.model", import.meta.url),
);
const tokenizers: Readonly<Record<string, () => Promise<{ tokenizer: Tokenizer; stop: number }>>> = {
  "byte-level": () => Promise.resolve({ tokenizer: trainByteLevelBpe([text], { vocabSize: 310 }), stop: 0 }),
  [`SentencePiece with bytes (${path.basename(spiece)})`]: async () => ({
    tokenizer: await loadSentencePiece(spiece),
    stop: 2,
  }),
};

for (const [name, make] of Object.entries(tokenizers)) {
  describe(`a constraint over a ${name} vocabulary`, () => {
    /** What a model with random weights writes under a rule, for many seeds. */
    async function* write(
      rule: ConstraintRule,
      seeds: number,
      { maxNewTokens = 200, drafter, ...sampling }: GenerateOptions & { drafter?: Drafter } = {},
    ) {
      const { tokenizer, stop } = await make();
      const model = new Llama(
        llamaConfig({
          vocabSize: tokenizer.vocabSize + 3,
          hiddenSize: 32,
          intermediateSize: 48,
          numLayers: 1,
          numHeads: 2,
          contextLength: 256,
          initializerRange: 0.3,
        }),
      );
      using weights = Weights.initialize(runtime, model, 1);
      using decoder = await Decoder.create({ model, weights });
      const { vocabSize } = model.config;
      using compiler = await ConstraintCompiler.create(tokenizer, { vocabSize, stopIds: [stop] });
      using constraint = await compiler.compile(rule);
      for (let seed = 0; seed < seeds; seed++) {
        using walk = await constraint.begin();
        const ids: number[] = [];
        let finish: string | undefined;
        let speculation: GeneratedToken["speculation"];
        const options = { ...sampling, seed, maxNewTokens, stopIds: [stop], constraints: [walk] };
        const tokens = generate(decoder, [[5, 6, 7]], { ...options, drafter });
        for await (const token of tokens) {
          if (token.id !== undefined) ids.push(token.id);
          if (token.finish) finish = token.finish;
          ({ speculation } = token);
        }
        // The first word of SentencePiece has its space before it.
        const bytes = ids.flatMap((id) => [...tokenizer.bytesOf(id)]);
        yield { text: new TextDecoder().decode(Uint8Array.from(bytes)), finish, speculation };
      }
    }

    it("gives JSON that its schema describes, whatever the seed", async () => {
      const jsonSchema = {
        type: "object",
        properties: {
          kind: { enum: ["cat", "dog", "日本"] },
          age: { type: "integer", minimum: 0, maximum: 99 },
          tame: { type: "boolean" },
          tags: { type: "array", items: { type: "string", maxLength: 4 }, maxItems: 2 },
        },
        required: ["kind", "age", "tame"],
        additionalProperties: false,
      };
      let count = 0;
      for await (const { text: json, finish } of write({ jsonSchema }, 25)) {
        if (finish !== "stop") continue;
        count++;
        const value = JSON.parse(json) as Record<string, unknown>;
        expect(["cat", "dog", "日本"]).toContain(value["kind"]);
        expect(
          Number.isInteger(value["age"]) && Number(value["age"]) >= 0 && Number(value["age"]) <= 99,
        ).toBe(true);
        expect(typeof value["tame"]).toBe("boolean");
        expect(Object.keys(value).every((key) => ["kind", "age", "tame", "tags"].includes(key))).toBe(true);
        // Random bytes may look like one character and be none; a decoder makes several of such.
        if (json.includes("\uFFFD")) continue;
        for (const tag of (value["tags"] ?? []) as string[]) expect([...tag].length).toBeLessThanOrEqual(4);
      }
      // Some may fill the context with the white space that JSON allows.
      expect(count).toBeGreaterThan(15);
    });

    it("gives text that its expression matches, whatever the seed", async () => {
      const regex = "(yes|no|maybe): [0-9]{1,3}(\\.[0-9]{2})?( (日|本|é)+)?!";
      const texts = new Set<string>();
      for await (const { text: answer, finish } of write({ regex }, 40)) {
        expect(finish).toBe("stop");
        expect(answer).toMatch(new RegExp(`^(?:${regex})$`, "u"));
        texts.add(answer);
      }
      expect(texts.size).toBeGreaterThan(10);
    });

    it("gives with guesses the text that it gives without, and what its rule describes", async () => {
      const rows = { type: "array", items: { type: "object", properties: { cat: { type: "boolean" } } } };
      const jsonSchema = { ...rows, minItems: 3, maxItems: 5 };
      const regex = "((yes|no), ){4,8}[0-9]+!";
      for (const rule of [{ jsonSchema }, { regex }]) {
        const greedy = { temperature: 0, maxNewTokens: 60 };
        for await (const plain of write(rule, 1, greedy))
          for await (const guessed of write(rule, 1, { ...greedy, drafter: promptLookup() }))
            expect({ ...guessed, speculation: undefined }).toEqual(plain);
      }
      let accepted = 0;
      for await (const { text: answer, finish, speculation } of write({ regex }, 20, {
        drafter: promptLookup(),
      })) {
        accepted += speculation!.accepted;
        if (finish === "stop") expect(answer).toMatch(new RegExp(`^(?:${regex})$`));
      }
      expect(accepted).toBeGreaterThan(20);
    });
  });
}

describe("a constraint", () => {
  it("says what is wrong with a schema or an expression, and the next one is compiled all the same", async () => {
    const tokenizer = trainByteLevelBpe([text], { vocabSize: 310 });
    using compiler = await ConstraintCompiler.create(tokenizer, {
      vocabSize: tokenizer.vocabSize,
      stopIds: [0],
    });
    await expect(compiler.compile({ regex: "[ab" })).rejects.toThrow(
      "the regular expression cannot be used: Regex parsing error at position 4: Unclosed '['",
    );
    await expect(compiler.compile({ jsonSchema: { type: 5 } })).rejects.toThrow(
      "the JSON schema cannot be used",
    );
    await expect(compiler.compile({ regex: "[é]" })).rejects.toThrow("a character beyond ASCII");
    using good = await compiler.compile({ regex: "a+" });
    using walk = await good.begin();
    expect(walk.finished).toBe(false);
  });

  const make = async (limits?: object) => {
    const tokenizer = trainByteLevelBpe([text], { vocabSize: 310 });
    const { vocabSize } = tokenizer;
    return {
      tokenizer,
      compiler: await ConstraintCompiler.create(tokenizer, {
        vocabSize,
        stopIds: [0],
        ...(limits && { limits }),
      }),
    };
  };
  const nested = (levels: number, of: (inner: unknown) => unknown, core: unknown): unknown =>
    levels === 0 ? core : of(nested(levels - 1, of, core));
  const object = (a: unknown) => ({ type: "object", properties: { a } });
  const bad: readonly ConstraintRule[] = [
    { jsonSchema: { type: 5 } },
    { regex: "(((" },
    { jsonSchema: { type: "string", pattern: `${"(".repeat(3000)}a${")".repeat(3000)}` } },
    { regex: `${"(".repeat(3000)}a${")".repeat(3000)}` },
    { jsonSchema: nested(2000, object, { type: "string" }) },
    { jsonSchema: { type: "array", minItems: 10_000_000 } },
    { regex: "[z-a]" },
    { jsonSchema: undefined },
    { regex: "a".repeat(100_000) },
    { jsonSchema: { $ref: "#/nowhere" } },
  ];

  it("goes on where it was, whatever is refused meanwhile: a thousand rules, in memory that stays flat", async () => {
    const { compiler, tokenizer } = await make();
    using disposable = compiler;
    using good = await disposable.compile({ regex: "cat: [0-9]{3}!" });
    using walk = await good.begin();
    const bytes = new Map<number, number>();
    for (let id = 1; id < tokenizer.vocabSize; id++) {
      const [byte, ...more] = tokenizer.bytesOf(id);
      if (more.length === 0) bytes.set(byte!, id);
    }
    const allowed = async () => {
      const logits = new Float32Array(tokenizer.vocabSize);
      await walk.restrict(logits);
      return [...bytes]
        .flatMap(([byte, id]) => (logits[id] === 0 ? [String.fromCharCode(byte)] : []))
        .sort()
        .join("");
    };
    const answer = "cat: 407!";
    const expected = ["c", "a", "t", ":", " ", "0123456789", "0123456789", "0123456789", "!"];
    let halfway = 0;
    let rule = 0;
    for (let round = 0; round < 10; round++) {
      for (let k = 0; k < 100; k++)
        await expect(compiler.compile(bad[rule++ % bad.length]!)).rejects.toMatchObject({ code: "argument" });
      if (round < answer.length) {
        expect(await allowed()).toBe(expected[round]);
        walk.accept(bytes.get(answer.charCodeAt(round))!);
      }
      if (round === 4) halfway = process.memoryUsage().rss;
    }
    expect(walk.finished).toBe(false);
    walk.accept(0);
    expect(walk.finished).toBe(true);
    expect(process.memoryUsage().rss / halfway).toBeLessThan(1.2);
  }, 120_000);

  it("names the limit that a rule is beyond", async () => {
    const { compiler } = await make({ length: 2000, depth: 10 });
    using disposable = compiler;
    const refused = (rule: ConstraintRule, reason: string) =>
      expect(disposable.compile(rule)).rejects.toThrow(reason);
    await refused({ regex: `${"(".repeat(11)}a${")".repeat(11)}` }, "nested deeper than 10 levels");
    await refused({ jsonSchema: nested(6, object, {}) }, "nested deeper than 10 levels");
    await refused({ regex: "a".repeat(2001) }, "it has 2001 characters, but at most 2000 are taken");
    await refused({ jsonSchema: { enum: ["a".repeat(2000)] } }, "but at most 2000 are taken");
    await refused({ jsonSchema: { enum: Array.from({ length: 3000 }, () => 1) } }, "more than 2000 values");
    const itself: Record<string, unknown> = {};
    itself["properties"] = itself;
    await refused({ jsonSchema: itself }, "nested deeper than 10 levels");
    using one = await disposable.compile({ regex: `${"(a)".repeat(50)}[(((((((((((((]\\(` });
    expect(one).toBeDefined();
  });

  it("stops a rule that takes too long or too much memory, while the event loop goes on", async () => {
    const slow = { regex: "((a|b|ab){1,60}(b|c|bc){1,60}){1,200}" };
    const { compiler } = await make({ seconds: 0.05 });
    {
      using disposable = compiler;
      let turns = 0;
      const timer = setInterval(() => turns++, 5);
      await expect(disposable.compile(slow)).rejects.toThrow("takes longer than 0.05 seconds");
      clearInterval(timer);
      expect(turns).toBeGreaterThan(1);
    }
    const small = await make({ bytes: 30e6, seconds: 60, length: 1e6 });
    using disposable = small.compiler;
    await expect(
      disposable.compile({ jsonSchema: { enum: Array.from({ length: 30_000 }, (_, k) => `word ${k}`) } }),
    ).rejects.toThrow("takes more than 30.0 MB of memory");
    using good = await disposable.compile({ regex: "a+" });
    expect(good).toBeDefined();
  });

  it("is a typed error after its compiler was disposed", async () => {
    const { compiler } = await make();
    const constraint = await compiler.compile({ regex: "a+" });
    const walk = await constraint.begin();
    compiler.dispose();
    await expect(walk.restrict(new Float32Array(310))).rejects.toMatchObject({ code: "disposed" });
    await expect(compiler.compile({ regex: "a+" })).rejects.toMatchObject({ code: "disposed" });
  });
});
