import { describe, expect, it } from "vitest";
import { addDims, compile, constant, gather, input, limit, range, slice } from "../../src/graph/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime();
const zeros = (...shape: number[]) => runtime.createTensor("float32", shape);

describe("a program whose table ends", () => {
  const table = input("table", "float32", [4, 2]);
  const x = input("x", "float32", ["rows", 2]);

  it("says so before a run that needs more of it, and goes on afterwards", async () => {
    using program = await compile(runtime, { y: x.add(slice(table, 0, 0, x.dim(0))) }, { name: "sum" });
    const run = (rows: number) => program.run({ table: zeros(4, 2), x: zeros(rows, 2) });
    await expect(run(5)).rejects.toMatchObject({
      code: "length",
      message:
        "sum: rows is 5, but at most 4 fit: table knows no more; cut the rows, or take a model that reads longer ones",
    });
    const { y } = await run(4);
    expect(y!.shape).toEqual([4, 2]);
  });

  it("says so when another tensor is bound", async () => {
    using program = await compile(runtime, { y: x.add(slice(table, 0, 0, x.dim(0))) });
    using binding = program.bind({ table: zeros(4, 2), x: zeros(3, 2) }, { y: zeros(3, 2) });
    await binding.run();
    binding.set("x", zeros(5, 2));
    binding.set("y", zeros(5, 2));
    await expect(binding.run()).rejects.toThrow("rows is 5, but at most 4 fit");
  });

  it("counts back to the dimension that was given, and leaves sums as they are", async () => {
    const offsets = constant("float32", [8], [1, 2, 3, 4, 5, 6, 7, 8]);
    const shifted = { y: slice(offsets, 0, 2, addDims(x.dim(0), 2)), z: x.add(1) };
    using program = await compile(runtime, shifted);
    await expect(program.run({ x: zeros(7, 2) })).rejects.toThrow("rows is 7, but at most 6 fit");
    const past = input("past", "float32", ["past"]);
    const both = { y: slice(offsets, 0, 0, addDims(x.dim(0), past.dim(0))), z: x.add(1), p: past.add(1) };
    using summed = await compile(runtime, both);
    await expect(summed.run({ x: zeros(4, 2), past: zeros(5) })).rejects.toThrow(
      "past+rows is 9, but at most 8 fit",
    );
  });

  it("says so of places that are computed, and when the program is written where the length is known", async () => {
    const places = range(limit(x, 0, 4, table).dim(0));
    using program = await compile(runtime, { y: gather(table, places).add(limit(x, 0, 4, table)) });
    await expect(program.run({ table: zeros(4, 2), x: zeros(5, 2) })).rejects.toThrow("at most 4 fit: table");
    expect(() => limit(input("z", "float32", [5, 2]), 0, 4, table)).toThrow(
      "limit: 5 is more than the 4 that [4, 2] has room for",
    );
  });
});
