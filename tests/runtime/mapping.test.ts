import { mkdtempSync, readFileSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { constants } from "node:buffer";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compile, input, matmul } from "../../src/graph/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime();
let folder: string;
let file: string;
const values = Float32Array.from({ length: 64 }, (_, i) => i / 7);

beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "lineage-mapping-"));
  file = path.join(folder, "weights.bin");
  writeFileSync(file, Buffer.concat([Buffer.alloc(8, 1), Buffer.from(values.buffer)]));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

describe("mapFile", () => {
  it("gives tensors over a file's bytes, which outlive the mapping's own disposal", () => {
    const mapping = runtime.mapFile(file);
    expect(mapping.byteLength).toBe(8 + 256);
    const tensor = mapping.tensor("float32", [8, 8], 8);
    mapping.dispose();
    expect(tensor.view()).toEqual(values);
    const view = tensor.view();
    tensor.dispose();
    expect(view.length).toBe(0);
    expect(() => mapping.tensor("uint8", [1], 0)).toThrow("was used after it was disposed");
  });

  it("takes no memory of the engine, and leaves the file alone when a tensor is written", () => {
    const before = runtime.allocatedBytes;
    using mapping = runtime.mapFile(file);
    using tensor = mapping.tensor("float32", [64], 8);
    expect(runtime.allocatedBytes).toBe(before);
    tensor.view().fill(3);
    expect(readFileSync(file).subarray(8)).toEqual(Buffer.from(values.buffer));
  });

  it("copies what does not lie at a multiple of its size", () => {
    using mapping = runtime.mapFile(file);
    using tensor = mapping.tensor("float32", [2], 6);
    const bytes = readFileSync(file).subarray(6, 14);
    expect(Buffer.from(tensor.view().buffer, tensor.view().byteOffset, 8)).toEqual(bytes);
  });

  it("shows the parts of a file that is longer than a buffer can be", () => {
    const size = 5 * 2 ** 30;
    // All of it but its first bytes is a hole, which takes no room.
    const long = path.join(folder, "long.bin");
    writeFileSync(long, Buffer.from(values.buffer));
    truncateSync(long, size);
    const mapping = runtime.mapFile(long);
    const whole = mapping.tensor("float32", [size / 4], 0);
    const [first, last] = [whole.slice(0, [64]), whole.slice(size / 4 - 64, [64])];
    expect(first.view()).toEqual(values);
    last.write(values);
    const shown = mapping.tensor("float32", [2], size - 8).view();
    expect(shown).toEqual(values.slice(-2));
    if (constants.MAX_LENGTH < size) expect(() => whole.view()).toThrow("5.4 GB cannot be seen at once");
    for (const tensor of [whole, first, last]) tensor.dispose();
    mapping.dispose();
  });

  it("serves as a constant of a program", async () => {
    const w = runtime.mapFile(file).tensor("float32", [8, 8], 8);
    const program = await compile(
      runtime,
      { y: matmul(input("x", "float32", ["rows", 8]), input("w", "float32", [8, 8])) },
      { constants: { tensors: { w }, packed: {} } },
    );
    expect(program.inputs.map(({ name }) => name)).toEqual(["x"]);
    const { y } = await program.run({
      x: runtime.createTensor("float32", [1, 8], new Float32Array(8).fill(1)),
    });
    const sums = Array.from({ length: 8 }, (_, column) =>
      Array.from({ length: 8 }, (_, row) => values[8 * row + column]!).reduce((sum, value) => sum + value, 0),
    );
    (await y!.read()).forEach((value, column) => {
      expect(value).toBeCloseTo(sums[column]!, 4);
    });
  });

  it("says which file cannot be mapped, and what lies outside", () => {
    expect(() => runtime.mapFile(path.join(folder, "none"))).toThrow("there is no such file or folder");
    expect(() => runtime.mapFile(folder)).toThrow("it is not a file");
    using mapping = runtime.mapFile(file);
    for (const offset of [-4, 12, 2 ** 60]) {
      expect(() => mapping.tensor("float32", [64], offset)).toThrow("do not lie within");
    }
  });
});

describe("createPagedTensor", () => {
  it("gives zeros that hold what is written, outside the engine's memory, in a file without a name", () => {
    const before = runtime.allocatedBytes;
    using tensor = runtime.createPagedTensor("float32", [3, 7], folder);
    expect(tensor.view()).toEqual(new Float32Array(21));
    tensor.write(Float32Array.from({ length: 21 }, (_, i) => i));
    using row = tensor.slice(14, [7]);
    expect([...row.view()]).toEqual([14, 15, 16, 17, 18, 19, 20]);
    expect(runtime.allocatedBytes).toBe(before);
    expect(readdirSync(folder).filter((name) => name.startsWith(".paged"))).toEqual([]);
  });

  it("lets a program write to it", async () => {
    const x = input("x", "float32", [2, 2]);
    using program = await compile(runtime, { y: matmul(x, x) });
    using tensor = runtime.createPagedTensor("float32", [2, 2], folder);
    tensor.write(Float32Array.of(1, 2, 3, 4));
    using result = runtime.createPagedTensor("float32", [2, 2], folder);
    await program.run({ x: tensor }, { y: result });
    expect([...result.view()]).toEqual([7, 10, 15, 22]);
  });

  it("says which folder it cannot write to", () => {
    const missing = path.join(folder, "missing");
    expect(() => runtime.createPagedTensor("uint8", [1], missing)).toThrow(
      /missing.*no such file|not exist/i,
    );
  });
});
