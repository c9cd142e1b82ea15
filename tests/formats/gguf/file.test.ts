import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { GgufFile, type GgufValue, parseGguf, ggufFormat, writeGguf } from "../../../src/formats/index.js";
let folder: string;
let file: string;
let bytes: Uint8Array;
const metadata = new Map<string, GgufValue>([
  ["general.architecture", { type: "string", value: "llama" }],
  ["a.float", { type: "float32", value: 0.5 }],
  ["a.large", { type: "uint64", value: 2n ** 60n }],
  ["a.flag", { type: "bool", value: true }],
  ["a.list", { type: "array", of: "string", value: ["x", "naïve 日本 🙂", ""] }],
  ["a.numbers", { type: "array", of: "int32", value: [-1, 0, 2 ** 31 - 1] }],
]);
const matrix = Float32Array.from({ length: 64 * 3 }, (_, i) => Math.sin(i));

beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  file = path.join(folder, "small.gguf");
  await writeGguf(file, metadata, [
    { name: "vector", format: ggufFormat("F32"), shape: [5], values: () => matrix.subarray(0, 5) },
    { name: "matrix", format: ggufFormat("Q8_0"), shape: [3, 64], values: () => matrix },
  ]);
  bytes = new Uint8Array(await readFile(file));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

describe("a GGUF file", () => {
  it("comes back with its metadata, their types, and its tensors", async () => {
    const gguf = await GgufFile.open(file);
    expect(gguf.header.metadata).toEqual(metadata);
    expect(gguf.tensor("matrix")).toMatchObject({ shape: [3, 64], byteLength: 204 });
    expect(await gguf.readValues("vector")).toEqual(matrix.slice(0, 5));
    const values = await gguf.readValues("matrix");
    values.forEach((value, i) => {
      expect(value).toBeCloseTo(matrix[i]!, 2);
    });
    await expect(gguf.readValues("absent")).rejects.toThrow("there is no tensor absent");
    expect(() => gguf.get("a.float", "string")).toThrow("the metadata entry a.float must be a string");
  });

  /** The file with `value` as the 64-bit number at the first place where `marker` ends. */
  const after = (marker: string, skip: number, write: (view: DataView, at: number) => void): Uint8Array => {
    const copy = bytes.slice();
    const at = Buffer.from(copy).indexOf(marker) + marker.length + skip;
    write(new DataView(copy.buffer), at);
    return copy;
  };
  const hostile: readonly (readonly [string, () => Uint8Array, string])[] = [
    ["no GGUF", () => new TextEncoder().encode("this is a text, and a long one"), "does not begin as a GGUF"],
    ["an unknown version", () => at32(4, 9), "version 9"],
    ["another byte order", () => at32(4, 3 << 24), "big-endian"],
    ["a tensor count that lies", () => at64(8, 2n ** 63n), "claims 9223372036854775808 tensors"],
    ["an entry count that lies", () => at64(16, 2n ** 40n), "claims 1099511627776 metadata entries"],
    [
      "an unknown metadata type",
      () => after("a.float", 0, (view, at) => view.setUint32(at, 77, true)),
      "has the type 77",
    ],
    [
      "an array longer than the file",
      () => after("a.list", 8, (view, at) => view.setBigUint64(at, 2n ** 50n, true)),
      "claims 1125899906842624 values",
    ],
    [
      "a name that is there twice",
      () => replace("a.flag", "a.list"),
      'the metadata key "a.list" is there twice',
    ],
    ["a tensor that is there twice", () => replace("vector", "matrix"), '"matrix" is there twice'],
    [
      "five dimensions",
      () => after("vector", 0, (view, at) => view.setUint32(at, 5, true)),
      "has 5 dimensions",
    ],
    [
      "a dimension that overflows",
      () => after("vector", 4, (view, at) => view.setBigUint64(at, 2n ** 62n, true)),
      "has a dimension of",
    ],
    [
      "a tensor larger than the file",
      () => after("vector", 4, (view, at) => view.setBigUint64(at, 2n ** 30n, true)),
      "more than the whole file",
    ],
    [
      "an unknown tensor type",
      () => after("vector", 12, (view, at) => view.setUint32(at, 1000, true)),
      "has the type 1000",
    ],
    [
      "half a block",
      () => after("matrix", 4, (view, at) => view.setBigUint64(at, 63n, true)),
      "no whole blocks of 32",
    ],
    [
      "an offset outside",
      () => after("matrix", 24, (view, at) => view.setBigUint64(at, 2n ** 40n, true)),
      "outside the file",
    ],
    [
      "an offset between",
      () => after("matrix", 24, (view, at) => view.setBigUint64(at, 33n, true)),
      "no multiple of 32",
    ],
    [
      "tensors that overlap",
      () => after("matrix", 24, (view, at) => view.setBigUint64(at, 0n, true)),
      "overlap",
    ],
    ["a file that is cut short", () => bytes.slice(0, -40), "it is cut short"],
    ["a header that is cut short", () => bytes.slice(0, 90), "more than a file of 90 bytes"],
  ];
  const at32 = (at: number, value: number) => {
    const copy = bytes.slice();
    new DataView(copy.buffer).setUint32(at, value, true);
    return copy;
  };
  const at64 = (at: number, value: bigint) => {
    const copy = bytes.slice();
    new DataView(copy.buffer).setBigUint64(at, value, true);
    return copy;
  };
  const replace = (from: string, to: string) => {
    const copy = bytes.slice();
    copy.set(new TextEncoder().encode(to), Buffer.from(copy).indexOf(from));
    return copy;
  };
  for (const [name, make, message] of hostile) {
    it(`with ${name} is refused with a sentence`, async () => {
      const wrong = path.join(folder, "wrong.gguf");
      await writeFile(wrong, make());
      const opening = GgufFile.open(wrong);
      await expect(opening).rejects.toMatchObject({ name: "FormatError" });
      await expect(opening).rejects.toThrow(message);
    });
  }

  it("is read or refused, and never more, whatever has happened to its bytes", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { maxLength: 8 }),
        fc.array(fc.tuple(fc.nat(bytes.length - 8), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })), {
          maxLength: 2,
        }),
        fc.nat(bytes.length),
        (changes, numbers, length) => {
          const mutated = bytes.slice();
          for (const [place, value] of changes) mutated[place] = value;
          for (const [place, value] of numbers) new DataView(mutated.buffer).setBigUint64(place, value, true);
          const cut = mutated.slice(0, length % 3 === 0 ? length : bytes.length);
          try {
            const { tensors } = parseGguf("mutated.gguf", cut, cut.length);
            for (const { byteOffset, byteLength } of tensors.values())
              expect(byteOffset + byteLength).toBeLessThanOrEqual(cut.length);
          } catch (error) {
            expect(error).toMatchObject({ name: "FormatError" });
          }
        },
      ),
      { numRuns: 3000 },
    );
  });
});
