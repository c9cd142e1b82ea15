import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { lineage } from "../support/cli.js";
import { writeTinyDecoder } from "../support/tiny-decoder.js";

const root = mkdtempSync(path.join(os.tmpdir(), "decoder-head-"));
afterAll(() => {
  rmSync(root, { recursive: true, force: true });
});
const at = (name: string) => path.join(root, name);
const texts = Array.from({ length: 40 }, (_, index) => ({
  text: index % 2 === 0 ? `the sun is warm ${index}` : `a cold rain fell ${index}`,
  label: index % 2 === 0 ? "warm" : "cold",
}));

interface Answer {
  readonly label: string;
  readonly probability: number;
}

/** What a model answers to some texts. */
async function answers(model: string): Promise<Answer[]> {
  const asked = texts.slice(0, 6).map(({ text }) => text);
  const { status, stdout, stderr } = await lineage("predict", "--model", model, "--json", ...asked);
  expect([status, stderr]).toEqual([0, ""]);
  return stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Answer);
}

describe("a decoder with a task's head", () => {
  it.each(["gpt2", "palm"] as const)("is quantised, converted and exported: %s", async (name) => {
    writeFileSync(at("data.jsonl"), texts.map((row) => JSON.stringify(row)).join("\n"));
    await writeTinyDecoder(at(name), name);
    const tuned = at(`${name}-tuned`);
    const steps = ["--epochs", "2", "--batch", "8", "--threads", "1"];
    const data = ["--task", "classify", "--data", at("data.jsonl")];
    expect(await lineage("finetune", "--model", at(name), ...data, "--out", tuned, ...steps)).toMatchObject({
      status: 0,
    });
    const whole = await answers(tuned);

    expect(await lineage("convert", tuned, at(`${name}-folder`))).toMatchObject({ status: 0 });
    expect(await answers(at(`${name}-folder`))).toEqual(whole);

    const quantize = ["quantize", "--model", tuned, "--bits", "8", "--out", at(`${name}-8`)];
    expect(await lineage(...quantize)).toMatchObject({ status: 0 });
    const packed = await answers(at(`${name}-8`));
    packed.forEach(({ probability }, index) => {
      expect(Math.abs(probability - whole[index]!.probability)).toBeLessThan(0.05);
    });

    const onnx = await lineage("convert", tuned, at(`${name}.onnx`));
    expect(onnx).toMatchObject({ status: 0 });
    expect(onnx.stdout + onnx.stderr).toContain("8 of 8 are the same");
    expect(await lineage("export", "--model", tuned, "--out", at(`${name}-web`))).toMatchObject({
      status: 0,
    });

    const gguf = await lineage("convert", tuned, at(`${name}.gguf`));
    expect(gguf).toMatchObject({ status: 1, stdout: "" });
    expect(gguf.stderr).toContain("convert it to a .onnx file or a folder");
  });
});
