import { describe, expect, expectTypeOf, it } from "vitest";
import { z } from "zod";
import { type ConfigOf, configEntries, configTable, entry } from "../../src/nn/index.js";

const { size, flag } = configEntries;
const table = configTable({
  type: "tiny",
  title: "Tiny",
  fields: {
    hiddenSize: entry("hidden_size", size),
    numLayers: entry("num_layers", size),
    numHeads: entry("num_heads", size, { aliases: ["n_head"] }),
    width: entry("ffn_dim", size, {
      absent: ({ hiddenSize }: { hiddenSize: number }) => 4 * hiddenSize,
    }),
    groups: entry("groups", size, { absent: 8, null: ({ numHeads }: { numHeads: number }) => numHeads }),
    window: entry("window", size.optional(), { absent: 16, null: undefined }),
    tied: entry("tie", flag, { absent: false, published: true }),
    mode: entry("mode", z.enum(["a", "b"]), { absent: "a" }),
  },
  fixed: { act: "silu" },
  only: { act: ["swish"], experts: [1] },
  withoutEffect: { use_kernel: "the engine chooses" },
});
const json = { model_type: "tiny", hidden_size: 8, num_layers: 2, num_heads: 2 };

describe("a table of configuration entries", () => {
  it("gives the type of the configuration", () => {
    expectTypeOf<ConfigOf<typeof table>>().toEqualTypeOf<{
      readonly hiddenSize: number;
      readonly numLayers: number;
      readonly numHeads: number;
      readonly width: number;
      readonly groups: number;
      readonly window?: number | undefined;
      readonly tied: boolean;
      readonly mode: "a" | "b";
    }>();
  });

  it("reads what a file has, means what an absent entry means, and keeps null apart from it", () => {
    expect(table.read(json)).toEqual({
      hiddenSize: 8,
      numLayers: 2,
      numHeads: 2,
      width: 32,
      groups: 8,
      window: 16,
      tied: false,
      mode: "a",
    });
    expect(table.read({ ...json, ffn_dim: 20, groups: null, window: null, tie: true })).toMatchObject({
      width: 20,
      groups: 2,
      window: undefined,
      tied: true,
    });
    const { num_heads: heads, ...others } = json;
    expect(table.read({ ...others, n_head: heads }).numHeads).toBe(2);
  });

  it("writes what reads back as the same", () => {
    const config = table.create({ hiddenSize: 8, numLayers: 2, numHeads: 2, window: undefined, mode: "b" });
    expect(config).toMatchObject({ tied: true, window: undefined, groups: 8 });
    const written = table.write(config);
    expect(written).toMatchObject({ model_type: "tiny", window: null, act: "silu", tie: true });
    expect(table.read(written)).toEqual(config);
  });

  it("refuses by the entry's name what is wrong or would be computed otherwise", () => {
    for (const [changes, message] of [
      [{ hidden_size: -1 }, "hidden_size is -1: it must be a whole number of at least 1"],
      [{ hidden_size: undefined }, "hidden_size is missing"],
      [{ mode: "c" }, 'mode must be a or b, not "c"'],
      [{ act: "gelu" }, 'act is "gelu", but lineage computes it only with "silu" or "swish"'],
      [{ experts: 4 }, "experts is 4"],
      [{ is_decoder: true }, "is_decoder is true"],
      [{ model_type: "huge" }, 'model_type is "huge"'],
    ] as const)
      expect(() => table.read({ ...json, ...changes }), JSON.stringify(changes)).toThrow(message);
    expect(() => table.read({ ...json, act: "swish", experts: 1, pruned_heads: {} })).not.toThrow();
    expect(() => table.read([])).toThrow("no JSON object");
  });

  it("warns of every entry that nobody knows, by its name, and of no other", () => {
    const warnings: string[] = [];
    table.read(
      { ...json, act: "silu", use_kernel: true, torch_dtype: "float16", soft_cap: 50, constructor: 1 },
      (sentence) => warnings.push(sentence),
    );
    expect(warnings).toHaveLength(2);
    expect(warnings[0]).toMatch(/soft_cap \(50\)/);
    expect(warnings[1]).toMatch(/constructor/);
    expect(table.meaningOf("use_kernel")).toEqual({ withoutEffect: "the engine chooses" });
  });

  it("refuses choices that no field has or that are wrong", () => {
    const sizes = { hiddenSize: 8, numLayers: 2, numHeads: 2 };
    expect(() => table.create({ ...sizes, hiddenSize: 0 })).toThrow("hiddenSize is 0");
    const misspelled: Record<string, unknown> = { windows: 3 };
    expect(() => table.create({ ...sizes, ...misspelled })).toThrow("Tiny has no windows");
  });
});
