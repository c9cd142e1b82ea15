import { execFileSync } from "node:child_process";
import { describe, expect, it } from "vitest";
import { compile, gradients, input, matmul, mean } from "../../src/graph/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { laterGrowth } from "../memory.js";

const runtime = createRuntime();

describe("native memory stays flat", () => {
  it("over 200 rounds of load and dispose", async () => {
    const round = async () => {
      const x = input("x", "float32", [256, 1024]);
      using program = await compile(runtime, { y: x.mul(2) });
      using a = runtime.createTensor("float32", [256, 1024]);
      const { y } = await program.run({ x: a });
      y!.view();
      y!.dispose();
    };
    for (let i = 0; i < 100; i++) await round();
    const allocated = runtime.allocatedBytes;
    // Each round makes two tensors of 1 MiB: keeping one of them would add 50 MiB to every stretch.
    expect(await laterGrowth(25, 50, round)).toBeLessThan(25);
    expect(runtime.allocatedBytes).toBe(allocated);
  });

  it("over 10,000 steps of descent, bound and with fresh tensors", async () => {
    const size = 64;
    const [x, w] = [input("x", "float32", [8, size]), input("w", "float32", [size, size])];
    const loss = mean(matmul(x, w).sub(x).square());
    const [gradient] = gradients(loss, [w]);
    using program = await compile(runtime, { loss, next: w.sub(gradient!.mul(0.1)) });
    using weight = runtime.createTensor("float32", [size, size]);
    using data = runtime.createTensor("float32", [8, size], new Float32Array(8 * size).fill(0.5));
    using result = runtime.createTensor("float32", []);
    using binding = program.bind({ x: data, w: weight }, { loss: result, next: weight });
    const step = async (index: number) => {
      if (index % 2 === 0) {
        await binding.run();
        return;
      }
      using given = runtime.createTensor("float32", [8, size], data.view());
      const { loss: value, next } = await program.run({ x: given, w: weight });
      value!.dispose();
      next!.dispose();
    };
    for (let i = 0; i < 1000; i++) await step(i);
    const allocated = runtime.allocatedBytes;
    // The fresh tensors of these steps are 180 MiB together, 45 MiB in a stretch.
    expect(await laterGrowth(20, 2500, step)).toBeLessThan(20);
    expect(runtime.allocatedBytes).toBe(allocated);
    expect(result.view()[0]).toBeLessThan(0.25);
  });
});

it("native memory of what nobody disposed goes when nobody can reach it", () => {
  const module = (name: string) =>
    JSON.stringify(new URL(`../../dist/src/${name}/index.js`, import.meta.url).href);
  const script = `
    const { createRuntime } = await import(${module("runtime")});
    const { compile, input } = await import(${module("graph")});
    const runtime = createRuntime();
    for (let i = 0; i < 100; i++) {
      const x = runtime.createTensor("float32", [2 ** 18]);
      const program = await compile(runtime, { y: input("x", "float32", [2 ** 18]).mul(2) });
      await program.run({ x });
    }
    const held = runtime.allocatedBytes;
    for (let i = 0; i < 5; i++) {
      gc();
      await new Promise((resolve) => setImmediate(resolve));
    }
    console.log(JSON.stringify([held, runtime.allocatedBytes]));`;
  const output = execFileSync(process.execPath, ["--expose-gc", "--input-type=module", "-e", script], {
    encoding: "utf8",
  });
  const [held, left] = JSON.parse(output) as [number, number];
  expect(held).toBeGreaterThan(0);
  expect(left).toBeLessThan(4 * 2 ** 20);
});
