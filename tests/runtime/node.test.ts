import { execFileSync } from "node:child_process";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { Worker } from "node:worker_threads";
import { describe, expect, it } from "vitest";
import { RuntimeError } from "../../src/base/errors.js";
import { compile, input, matmul, scalar, withScope, reshape, range, gather } from "../../src/graph/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime();

describe("a program", () => {
  it("updates a tensor bound as input and output in place", async () => {
    const x = input("x", "float32", ["n"]);
    using program = await compile(runtime, { y: x.mul(2) });
    using state = runtime.createTensor("float32", [3], Float32Array.of(1, 2, 3));
    using binding = program.bind({ x: state }, { y: state });
    const view = state.view();
    await binding.run();
    binding.runSync();
    expect([...view]).toEqual([4, 8, 12]);
  });

  it("leaves the event loop free while it runs", async () => {
    const size = 1024;
    let x = input("x", "float32", [size, size]);
    const first = x;
    for (let i = 0; i < 12; i++) x = matmul(x, first);
    using program = await compile(runtime, { y: x });
    using a = runtime.createTensor("float32", [size, size]);
    const delay = monitorEventLoopDelay({ resolution: 1 });
    delay.enable();
    const started = performance.now();
    const { y } = await program.run({ x: a });
    const elapsed = performance.now() - started;
    delay.disable();
    y!.dispose();
    expect(delay.max / 1e6).toBeLessThan(Math.max(50, elapsed / 2));
  });

  it("stops when its signal is aborted", async () => {
    const size = 1024;
    let x = input("x", "float32", [size, size]);
    const first = x;
    for (let i = 0; i < 60; i++) x = matmul(x, first);
    using program = await compile(runtime, { y: x });
    using a = runtime.createTensor("float32", [size, size]);
    const controller = new AbortController();
    setImmediate(() => {
      controller.abort(new Error("enough"));
    });
    await expect(program.run({ x: a }, {}, { signal: controller.signal })).rejects.toThrow("enough");
  });

  it("says which module's node failed", async () => {
    const ids = input("ids", "int64", ["n"]);
    const y = withScope({ path: "transformer.wte" }, () => gather(reshape(range(4, "int64"), [4, 1]), ids));
    using program = await compile(runtime, { y });
    using bad = runtime.createTensor("int64", [1], BigInt64Array.of(99n));
    const failure = await program.run({ ids: bad }).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(RuntimeError);
    expect((failure as RuntimeError).details.modulePath).toBe("transformer.wte");
  });

  it("refuses what does not fit before the engine sees it", async () => {
    const x = input("x", "float32", ["batch", 4]);
    using program = await compile(runtime, { y: x.add(scalar(1)) }, { name: "demo" });
    using wrong = runtime.createTensor("float32", [2, 5]);
    await expect(program.run({ x: wrong })).rejects.toThrow(
      "demo: x must be float32 [batch, 4], not float32 [2, 5]",
    );
    await expect(program.run({})).rejects.toThrow("demo: the input x is missing");
  });
});

describe("a tensor", () => {
  it("shares its memory with its slices, and frees it after the last", () => {
    const before = runtime.allocatedBytes;
    const whole = runtime.createTensor("float32", [4], Float32Array.of(1, 2, 3, 4));
    const part = whole.slice(2, [2]);
    part.view()[0] = 9;
    expect([...whole.view()]).toEqual([1, 2, 9, 4]);
    whole.dispose();
    expect(runtime.allocatedBytes).toBe(before + 16);
    part.dispose();
    expect(runtime.allocatedBytes).toBe(before);
    expect(() => part.view()).toThrow("after it was disposed");
  });

  it("stands over memory of somebody else without a copy", async () => {
    const owner = Float32Array.of(0, 1, 2, 3, 4, 5);
    using tensor = runtime.wrapTensor("float32", [3], owner.subarray(2, 5));
    using program = await compile(runtime, { y: input("x", "float32", [3]).mul(2) });
    owner[2] = 7;
    const { y } = await program.run({ x: tensor });
    expect([...(y!.view() as Float32Array)]).toEqual([14, 6, 8]);
    expect([...tensor.slice(1, [2]).view()]).toEqual([3, 4]);
  });

  it("refuses a slice beyond its end", () => {
    using tensor = runtime.createTensor("float32", [4]);
    expect(() => tensor.slice(3, [2])).toThrow("elements 3 to 5 do not lie within the 4");
  });
});

describe("memory", () => {
  it("stays flat over 200 rounds of load and dispose", async () => {
    const round = async () => {
      const x = input("x", "float32", [256, 1024]);
      using program = await compile(runtime, { y: x.mul(2) });
      using a = runtime.createTensor("float32", [256, 1024]);
      const { y } = await program.run({ x: a });
      y!.dispose();
    };
    for (let i = 0; i < 20; i++) await round();
    const before = process.memoryUsage().rss;
    for (let i = 0; i < 200; i++) await round();
    // Each round handles 2 MiB: keeping any of it would add 400 MiB.
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 2 ** 20);
  });
});

describe("a worker thread", () => {
  it("runs programs of its own", async () => {
    const dist = (name: string) =>
      JSON.stringify(new URL(`../../dist/src/${name}/index.js`, import.meta.url).href);
    const worker = new Worker(
      `(async () => {
        const { createRuntime } = await import(${dist("runtime")});
        const { compile, input } = await import(${dist("graph")});
        const runtime = createRuntime();
        const program = await compile(runtime, { y: input("x", "float32", [2]).mul(3) });
        const { y } = await program.run({ x: runtime.createTensor("float32", [2], Float32Array.of(1, 2)) });
        require("node:worker_threads").parentPort.postMessage([...y.view()]);
      })()`,
      { eval: true },
    );
    const message = await new Promise((resolve, reject) => {
      worker.on("message", resolve);
      worker.on("error", reject);
    });
    expect(message).toEqual([3, 6]);
    await worker.terminate();
  });
});

describe("a process", () => {
  it("exits cleanly with nothing disposed", () => {
    const script = `
      const { createRuntime } = await import(${JSON.stringify(new URL("../../dist/src/runtime/index.js", import.meta.url).href)});
      globalThis.kept = createRuntime().createTensor("float32", [8]);
      console.log("done");`;
    expect(execFileSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" })).toBe(
      "done\n",
    );
  });
});
