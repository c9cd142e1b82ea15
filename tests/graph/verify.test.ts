import { describe, expect, it } from "vitest";
import { compile, input } from "../../src/graph/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import type { Program, Runtime } from "../../src/runtime/types.js";

const cpu = createRuntime();

/** A device that gives what the CPU gives, but for one result; `programs` counts what it was asked to make. */
function device(wrong?: string): { runtime: Runtime; programs: string[] } {
  const programs: string[] = [];
  const createProgram: Runtime["createProgram"] = async (model, options) => {
    programs.push(options?.name ?? "");
    const program = await cpu.createProgram(model, options);
    const run: Program["run"] = async (...call) => {
      const results = await program.run(...call);
      if (wrong && results[wrong]) (results[wrong].view() as Float32Array)[3]! += 0.5;
      return results;
    };
    return new Proxy(program, {
      get: (target, key) => {
        const value: unknown = key === "run" ? run : Reflect.get(target, key);
        return typeof value === "function" && key !== "run" ? (value.bind(target) as unknown) : value;
      },
    });
  };
  const overrides: Partial<Runtime> = { device: "webgpu", cpu, createProgram };
  const runtime = new Proxy(cpu, {
    get: (target, key) => {
      if (key in overrides) return overrides[key as keyof Runtime];
      const value: unknown = Reflect.get(target, key);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
  return { runtime, programs };
}

describe("a device other than the CPU", () => {
  it("is compared with the CPU once, before its first program", async () => {
    const { runtime, programs } = device();
    for (let i = 0; i < 2; i++)
      (await compile(runtime, { y: input("x", "float32", [2]).mul(2) }, { name: "own" })).dispose();
    expect(programs).toEqual(["probe", "own", "own"]);
  });

  it("that computes something else is refused, with what it was", async () => {
    for (const wrong of ["softmax", "layer norm", "product transposed"]) {
      await expect(compile(device(wrong).runtime, { y: input("x", "float32", [2]).mul(2) })).rejects.toThrow(
        new RegExp(`the device webgpu computes ${wrong} wrongly: it differs from the CPU by 0.50`),
      );
    }
  });
});
