import { execFileSync } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LineageError } from "../../src/base/errors.js";
import { readJson } from "../../src/base/files.js";
import {
  SafetensorsFile,
  floatReaders,
  parseSafetensors,
  writeSafetensors,
} from "../../src/formats/index.js";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage ü "));
});
afterAll(() => rm(folder, { recursive: true }));

/** A file of a header and as many data bytes as asked. */
function build(header: unknown, dataBytes: number): Uint8Array {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}
const parse = (bytes: Uint8Array) => parseSafetensors("m.safetensors", bytes, bytes.byteLength);
const f32 = (shape: number[], from: number, to: number) => ({
  dtype: "F32",
  shape,
  data_offsets: [from, to],
});

describe("safetensors", () => {
  it("keep tensors and metadata through a file", async () => {
    const file = path.join(folder, "round trip.safetensors");
    const bytes = new Uint8Array(Float32Array.of(1, 2, 3).buffer);
    await writeSafetensors(file, [{ name: "w", dtype: "float32", shape: [3], bytes }], { note: "é" });
    const opened = await SafetensorsFile.open(file);
    const target = new Uint8Array(12);
    await opened.readInto("w", target);
    expect(target).toEqual(bytes);
    expect(opened.header.metadata).toEqual({ note: "é" });
    await expect(opened.readInto("v", target)).rejects.toThrow("there is no tensor v");
  });

  it("have PyTorch's values of 8-bit floats", async () => {
    const { values } = (await readJson(
      fileURLToPath(new URL("../reference/values/float8.json", import.meta.url)),
    )) as { values: Record<"float8_e4m3fn" | "float8_e5m2", (string | null)[]> };
    const bytes = Uint8Array.from({ length: 256 }, (_, byte) => byte);
    for (const name of ["float8_e4m3fn", "float8_e5m2"] as const) {
      const target = new Float32Array(256);
      floatReaders[name]!(bytes, target);
      const wanted = values[name].map((text) =>
        text === null ? NaN : Number(text.replace("inf", "Infinity")),
      );
      expect([...target]).toEqual(wanted);
    }
    const doubles = new Float32Array(2);
    floatReaders.float64!(new Uint8Array(Float64Array.of(0.1, -3).buffer), doubles);
    expect([...doubles]).toEqual([Math.fround(0.1), -3]);
  });

  it("are no pipes and no devices", async () => {
    const pipe = path.join(folder, "pipe.safetensors");
    execFileSync("mkfifo", [pipe]);
    await expect(SafetensorsFile.open(pipe)).rejects.toThrow("it is a pipe, not a file");
    await expect(SafetensorsFile.open("/dev/zero")).rejects.toThrow("it is a device, not a file");
    await expect(SafetensorsFile.open(folder)).rejects.toThrow("it is a folder");
  });

  const hostile: [string, Uint8Array, string][] = [
    ["too short", new Uint8Array(3), "3 bytes are too few"],
    [
      "a header longer than the file",
      new Uint8Array([255, 0, 0, 0, 0, 0, 0, 0, 123]),
      "the header claims 255 bytes in a file of 9",
    ],
    ["a huge header", new Uint8Array([255, 255, 255, 255, 255, 255, 255, 127]), "the header claims"],
    ["no JSON", build("{,", 0), "the header is not JSON"],
    ["a list", build([], 0), "the header must be a JSON object"],
    [
      "an unknown dtype",
      build({ w: { dtype: "F4", shape: [1], data_offsets: [0, 4] } }, 4),
      'has the dtype "F4"',
    ],
    [
      "a dtype that is an object with a toString of its own",
      build({ w: { dtype: { toString: 1 }, shape: [1], data_offsets: [0, 4] } }, 4),
      'the tensor "w" has a dtype that is not a name',
    ],
    [
      "metadata that is no string",
      build({ __metadata__: { step: { toString: null } }, w: f32([1], 0, 4) }, 4),
      'the entry "step" of __metadata__ is no string',
    ],
    [
      "metadata that is a list",
      build({ __metadata__: ["a"] }, 0),
      "__metadata__ must be an object of strings",
    ],
    [
      "a dtype from the prototype",
      build({ w: { dtype: "constructor", shape: [1], data_offsets: [0, 4] } }, 4),
      "which lineage does not know",
    ],
    ["a negative size", build({ w: f32([-1], 0, 4) }, 4), "a shape that is not a list of sizes"],
    ["a size that overflows", build({ w: f32([2 ** 40, 2 ** 40], 0, 4) }, 4), "needs"],
    ["an end beyond the file", build({ w: f32([2], 0, 8) }, 4), "outside the file"],
    [
      "bytes that do not fit the shape",
      build({ w: f32([2], 0, 4) }, 4),
      "has 4 bytes, but float32 [2] needs 8",
    ],
    ["an overlap", build({ a: f32([2], 0, 8), b: f32([1], 4, 8) }, 8), "the tensor b starts at byte 4"],
    ["a hole", build({ a: f32([1], 0, 4), b: f32([1], 8, 12) }, 12), "the tensor b starts at byte 8"],
    ["bytes left over", build({ a: f32([1], 0, 4) }, 9), "it is cut short or carries something else"],
  ];
  it.each(hostile)("are refused with %s", (_, bytes, message) => {
    expect(() => parse(bytes)).toThrow(message);
    expect(() => parse(bytes)).toThrow("m.safetensors: ");
  });

  it("are refused when there is no file", async () => {
    await expect(SafetensorsFile.open(path.join(folder, "none"))).rejects.toThrow(
      /cannot read .*none: there is no such file/,
    );
  });

  it("with random damage are refused clearly, or describe tensors that lie within the file", () => {
    const sound = build(
      {
        __metadata__: { format: "pt" },
        a: f32([2, 1], 0, 8),
        "b.c": { dtype: "U8", shape: [3], data_offsets: [8, 11] },
      },
      11,
    );
    const damage = fc.array(fc.record({ at: fc.nat(sound.length - 1), value: fc.nat(255) }), {
      minLength: 1,
      maxLength: 6,
    });
    fc.assert(
      fc.property(damage, fc.nat(sound.length), (changes, cut) => {
        const bytes = sound.slice(0, cut % 5 === 0 ? cut : sound.length);
        for (const { at, value } of changes) if (at < bytes.length) bytes[at] = value;
        try {
          for (const { byteOffset, byteLength } of parse(bytes).tensors.values()) {
            expect(byteOffset + byteLength).toBeLessThanOrEqual(bytes.length);
          }
        } catch (error) {
          expect(error).toBeInstanceOf(LineageError);
        }
      }),
      { numRuns: 3000 },
    );
  });

  it("never leave a half-written file behind", async () => {
    const file = path.join(folder, "missing folder", "m.safetensors");
    await expect(writeSafetensors(file, [])).rejects.toThrow("there is no such file or folder");
    await writeFile(path.join(folder, "kept"), "old");
  });
});
