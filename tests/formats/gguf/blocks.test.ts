import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { readJson } from "../../../src/base/files.js";
import { bfloat16Bits } from "../../../src/base/half.js";
import { Random } from "../../../src/base/random.js";
import { ggufFormat, ggufFormats } from "../../../src/formats/index.js";
import { type BlockFormat, dequantize, llamaCppFolder, quantize } from "../../../bench/llama-cpp.js";

interface Reference {
  readonly dequantized: Readonly<Record<string, { bytes: string; values: string }>>;
  readonly quantized: Readonly<Record<string, string>>;
  readonly values: string;
}
const reference = (await readJson(
  fileURLToPath(new URL("../../reference/values/gguf-blocks.json", import.meta.url)),
)) as Reference;
const bytesOf = (text: string) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const floatsOf = (text: string) => new Float32Array(bytesOf(text).buffer);

describe("GGUF's blocks", () => {
  for (const [name, { bytes, values }] of Object.entries(reference.dequantized)) {
    it(`${name} has the values that the gguf package gives`, () => {
      const expected = floatsOf(values);
      const actual = new Float32Array(expected.length);
      ggufFormat(name).dequantize!(bytesOf(bytes), actual);
      expect(actual).toEqual(expected);
    });
  }

  for (const name of ["F16", "Q8_0", "Q4_0"]) {
    it(`${name} is written as the gguf package writes it`, () => {
      expect(ggufFormat(name).quantize!(floatsOf(reference.values))).toEqual(
        bytesOf(reference.quantized[name]!),
      );
    });
  }

  it("16-bit floats are rounded to the nearest, as the gguf package rounds", () => {
    const bits = Uint16Array.from(floatsOf(reference.values), bfloat16Bits);
    expect(new Uint8Array(bits.buffer)).toEqual(bytesOf(reference.quantized["BF16"]!));
    const back = new Float32Array(bits.length);
    ggufFormat("BF16").dequantize!(new Uint8Array(bits.buffer), back);
    back.forEach((value, i) => {
      expect(Math.abs(value - floatsOf(reference.values)[i]!)).toBeLessThanOrEqual(Math.abs(value) / 256);
    });
  });
});

describe.skipIf(!llamaCppFolder)("GGUF's blocks (needs @node-llama-cpp/linux-x64)", () => {
  const random = new Random(5);
  const values = Float32Array.from({ length: 256 * 64 }, () => random.normal() * 10 ** random.normal());
  const formats: Partial<Record<string, BlockFormat>> = {
    Q4_0: "q4_0",
    Q4_1: "q4_1",
    Q8_0: "q8_0",
    Q4_K: "q4_K",
    Q5_K: "q5_K",
    Q6_K: "q6_K",
    Q5_0: "q5_0",
    Q5_1: "q5_1",
    Q2_K: "q2_K",
    Q3_K: "q3_K",
    IQ4_NL: "iq4_nl",
    IQ4_XS: "iq4_xs",
    MXFP4: "mxfp4",
  };
  for (const [name, format] of Object.entries(formats)) {
    it(`${name} has llama.cpp's own values${ggufFormats.writable.includes(name) ? ", and its bytes" : ""}`, () => {
      const bytes = quantize(format!, values);
      const actual = new Float32Array(values.length);
      ggufFormat(name).dequantize!(bytes, actual);
      expect(actual).toEqual(dequantize(format!, bytes));
      if (ggufFormats.writable.includes(name)) expect(ggufFormat(name).quantize!(values)).toEqual(bytes);
    });
  }
});
