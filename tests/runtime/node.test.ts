import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { Worker } from "node:worker_threads";
import { type MessageInitShape, create } from "@bufbuild/protobuf";
import { describe, expect, it, vi } from "vitest";
import { LineageError, RuntimeError } from "../../src/base/errors.js";
import { Random } from "../../src/base/random.js";
import {
  add,
  compile,
  concat,
  constant,
  expand,
  gather,
  gatherElements,
  gelu,
  input,
  layerNorm,
  lower,
  matmul,
  range,
  reshape,
  scalar,
  slice,
  softmax,
  sum,
  toOnnx,
  topK,
  withScope,
} from "../../src/graph/index.js";
import {
  ModelProtoSchema,
  OnnxBuilder,
  StringStringEntryProtoSchema,
  TensorProto_DataLocation as DataLocation,
  type TypeProtoSchema,
  encodeModel,
} from "../../src/onnx/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { locateLibrary, newestEngine } from "../../src/runtime/node/library.js";

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

  it("computes a sum and its norm one after the other, which is faster and more exact", async () => {
    const [x, y] = [input("x", "float32", ["batch", 3, 8]), input("y", "float32", ["batch", 3, 8])];
    const [weight, bias] = [input("weight", "float32", [8]), input("bias", "float32", [8])];
    const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
    try {
      const profile = path.join(folder, "profile");
      const program = await compile(runtime, { norm: layerNorm(add(x, y), weight, bias) }, { profile });
      const [rows, parameter] = [
        runtime.createTensor("float32", [1, 3, 8]),
        runtime.createTensor("float32", [8]),
      ];
      await program.run({ x: rows, y: rows, weight: parameter, bias: parameter });
      program.dispose();
      const [file] = await readdir(folder);
      const events = JSON.parse(await readFile(path.join(folder, file!), "utf8")) as {
        args?: { op_name?: string };
      }[];
      const names = new Set(events.flatMap(({ args }) => args?.op_name ?? []));
      expect(names).toEqual(new Set(["Add", "LayerNormalization"]));
    } finally {
      await rm(folder, { recursive: true });
    }
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

  it("stops being made when its signal is aborted", async () => {
    let x = input("x", "float32", [8, 8]);
    const first = x;
    for (let i = 0; i < 5000; i++) x = matmul(x, first);
    const model = toOnnx({ y: x });
    const controller = new AbortController();
    const made = runtime.createProgram(model, { signal: controller.signal });
    controller.abort(new Error("no need"));
    await expect(made).rejects.toThrow("no need");
  });

  it("holds a named dimension to one number in one run", async () => {
    const [a, b] = [input("a", "float32", ["rows"]), input("b", "float32", ["rows"])];
    using program = await compile(runtime, { y: a.add(b) }, { name: "sum" });
    using three = runtime.createTensor("float32", [3]);
    using one = runtime.createTensor("float32", [1]);
    await expect(program.run({ a: three, b: one })).rejects.toThrow(
      /^sum: the dimension rows is . in . but . in .; it must be one number in one run/,
    );
    await expect(program.run({ a: three, b: three }, { y: one })).rejects.toThrow("the dimension rows is");
  });

  it("keeps the tensors of a run in place when they are disposed meanwhile", async () => {
    const size = 512;
    const x = input("x", "float32", [size, size]);
    using program = await compile(runtime, { y: matmul(matmul(x, x), x) });
    const ones = new Float32Array(size * size).fill(1);
    const a = runtime.createTensor("float32", [size, size], ones);
    const y = runtime.createTensor("float32", [size, size]);
    const before = runtime.allocatedBytes;
    const run = program.run({ x: a }, { y });
    a.dispose();
    program.dispose();
    const { y: result } = await run;
    expect(result!.view()[7]).toBe(size * size);
    y.dispose();
    // What earlier tests left behind may go meanwhile.
    expect(runtime.allocatedBytes).toBeLessThanOrEqual(before - 2 * 4 * size * size);
    await expect(program.run({})).rejects.toThrow(LineageError);
  });

  it("is not run over tensors that were disposed, nor after its own end", async () => {
    const program = await compile(runtime, { y: input("x", "float32", [4]).mul(2) }, { name: "twice" });
    const x = runtime.createTensor("float32", [4]);
    using y = runtime.createTensor("float32", [4]);
    const binding = program.bind({ x }, { y });
    binding.runSync();
    x.dispose();
    expect(() => {
      binding.runSync();
    }).toThrow("a float32 tensor of [4] was used after it was disposed");
    await expect(binding.run()).rejects.toThrow("was used after it was disposed");
    using other = runtime.createTensor("float32", [4]);
    binding.set("x", other);
    binding.runSync();
    program.dispose();
    expect(() => {
      binding.runSync();
    }).toThrow("twice was run after it was disposed");
    binding.dispose();
    expect(() => {
      binding.runSync();
    }).toThrow("a binding was run after it was disposed");
  });

  it("takes empty tensors", async () => {
    const x = input("x", "float32", ["n", 4]);
    using program = await compile(runtime, { y: matmul(x, input("w", "float32", [4, 3])), total: sum(x) });
    using none = runtime.createTensor("float32", [0, 4]);
    using w = runtime.createTensor("float32", [4, 3]);
    const { y, total } = await program.run({ x: none, w });
    expect(y!.shape).toEqual([0, 3]);
    expect([...total!.view()]).toEqual([0]);
  });

  it("reads its external data from a folder with spaces and other letters", async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "линия моделей ñ 猫 "));
    try {
      const weight = runtime.createTensor(
        "float32",
        [512],
        Float32Array.from({ length: 512 }, (_, i) => i),
      );
      const outputs = { y: input("w", "float32", [512]).mul(2) };
      const { builder } = lower(outputs, { initializers: { w: weight.view() } });
      const model = builder.build();
      await writeFile(path.join(folder, "ä b.data"), new Uint8Array(weight.view().buffer));
      const [tensor] = model.graph!.initializer.filter((initializer) => initializer.name === "w");
      tensor!.rawData = new Uint8Array();
      tensor!.dataLocation = DataLocation.EXTERNAL;
      tensor!.externalData = [create(StringStringEntryProtoSchema, { key: "location", value: "ä b.data" })];
      using program = await runtime.createProgram(encodeModel(model), { directory: folder });
      const { y } = await program.run({});
      expect(y!.view()[100]).toBe(200);
    } finally {
      await rm(folder, { recursive: true });
    }
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

  it("takes ordinary memory over without a copy, and empties it when disposed", async () => {
    const before = runtime.allocatedBytes;
    const memory = Float32Array.of(2, 3, 4);
    const tensor = runtime.wrapTensor("float32", [3], memory);
    using program = await compile(runtime, { y: input("x", "float32", [3]).mul(2) });
    memory[0] = 7;
    using y = (await program.run({ x: tensor }))["y"]!;
    expect([...(y.view() as Float32Array)]).toEqual([14, 6, 8]);
    const part = tensor.slice(1, [2]);
    tensor.dispose();
    expect([...part.view()]).toEqual([3, 4]);
    part.dispose();
    expect(memory.length).toBe(0);
    expect(runtime.allocatedBytes).toBe(before + y.byteLength);
    expect(() => runtime.wrapTensor("float32", [1], Float32Array.of(1, 2).subarray(1))).toThrow(
      "only a whole ArrayBuffer",
    );
  });

  it("leaves empty views behind, which point nowhere", () => {
    const tensor = runtime.createTensor("float32", [2 ** 24]);
    const view = tensor.view();
    expect(view[5]).toBe(0);
    tensor.dispose();
    expect(view.length).toBe(0);
    expect(view[5]).toBeUndefined();
  });

  it("refuses shapes that are none and sizes that no memory has", () => {
    const before = runtime.allocatedBytes;
    expect(() => runtime.createTensor("float32", [2, -1])).toThrow("createTensor: [2, -1] is not a shape");
    expect(() => runtime.createTensor("float32", [0.5])).toThrow("is not a shape");
    expect(() => runtime.createTensor("float32", [2], Float32Array.of(1))).toThrow("1 elements cannot have");
    expect(() => runtime.createTensor("float32", [2 ** 40])).toThrow(
      "there is no memory for a tensor of 4,398,046,511,104 bytes",
    );
    expect(() => runtime.createTensor("float32", [2 ** 31, 2 ** 31])).toThrow(
      "more elements than any memory",
    );
    using tensor = runtime.createTensor("float32", [4]);
    expect(() => tensor.slice(0, [-2, -2])).toThrow("slice: [-2, -2] is not a shape");
    expect(runtime.allocatedBytes).toBe(before + 16);
  });

  it("is one with those that lie behind it, and with no others", () => {
    using whole = runtime.createTensor("float32", [6], Float32Array.of(1, 2, 3, 4, 5, 6));
    using first = whole.slice(0, [1, 2]);
    using second = whole.slice(2, [1, 2]);
    using last = whole.slice(5, [1]);
    using elsewhere = runtime.createTensor("float32", [1, 2]);
    using both = first.join([second], [2, 2]);
    expect([...both!.view()]).toEqual([1, 2, 3, 4]);
    expect(first.join([last], [3])).toBeUndefined();
    expect(second.join([first], [2, 2])).toBeUndefined();
    expect(first.join([elsewhere], [2, 2])).toBeUndefined();
    expect(() => first.join([second], [5])).toThrow("join: 4 elements cannot have the shape [5]");
  });

  it("refuses a slice beyond its end", () => {
    using tensor = runtime.createTensor("float32", [4]);
    expect(() => tensor.slice(3, [2])).toThrow("elements 3 to 5 do not lie within the 4");
  });
});

describe("weights in place", () => {
  it("are copied after all where the engine asks for one while it makes the program", async () => {
    const [rows, columns] = [128, 256];
    const builder = new OnnxBuilder("asks");
    builder.shared("weight", "float32", [rows, columns]);
    const inPlace = builder.placeShared(runtime.locationInPlace!);
    expect([...inPlace]).toEqual(["weight"]);
    // Only now: what a node computes from constants alone is not left in place.
    const squared = builder.node("Mul", ["weight", "weight"]);
    builder.input("x", "float32", [1, columns]);
    builder.output("y", builder.node("Add", [squared, "x"]), "float32", [rows, columns]);
    const numbers = Float32Array.from({ length: rows * columns }, (_, index) => index % 5);
    using weight = runtime.createTensor("float32", [rows, columns], numbers);
    using program = await runtime.createProgram(encodeModel(builder.build()), {
      weights: { weight },
      inPlace,
    });
    using x = runtime.createTensor("float32", [1, columns], new Float32Array(columns).fill(1));
    using y = (await program.run({ x }))["y"]!;
    expect([...(y.view() as Float32Array)]).toEqual([...numbers].map((value) => value * value + 1));
  });
});

describe("bytes that are no model", () => {
  it("are refused or run, and never end the process", async () => {
    const x = input("x", "float32", ["n", 16]);
    const hidden = gelu(
      matmul(softmax(x), constant("float32", [16, 16], new Float32Array(256).fill(0.1))),
      "tanh",
    );
    const chosen = topK(concat([slice(hidden, 1, 0, 3), slice(hidden, 1, 3)], 1), 3);
    const model = toOnnx({ y: gatherElements(hidden, chosen.indices), total: sum(chosen.values) });
    const random = new Random(7);
    let refused = 0;
    for (let round = 0; round < 300; round++) {
      const bytes = Uint8Array.from(model);
      const changes = 1 + Math.floor(random.uniform() * 4);
      for (let i = 0; i < changes; i++) {
        bytes[Math.floor(random.uniform() * bytes.length)] = Math.floor(random.uniform() * 256);
      }
      const end = random.uniform() < 0.1 ? Math.floor(random.uniform() * bytes.length) : bytes.length;
      try {
        const program = await runtime.createProgram(bytes.subarray(0, end));
        const given = Object.fromEntries(
          program.inputs.map(({ name, dtype, shape }) => [
            name,
            runtime.createTensor(
              dtype,
              shape.map((dim) => (typeof dim === "number" ? Math.min(dim, 64) : 2)),
            ),
          ]),
        );
        for (const tensor of Object.values(await program.run(given))) tensor.dispose();
        for (const tensor of Object.values(given)) tensor.dispose();
        program.dispose();
      } catch (error) {
        expect(error).toBeInstanceOf(LineageError);
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(100);
    expect(refused).toBeLessThan(300);
  });

  it("are refused where they give what is no tensor, or a tensor of text", async () => {
    type Type = MessageInitShape<typeof TypeProtoSchema>;
    const tensorType = (elemType: number): Type => ({
      value: { case: "tensorType", value: { elemType, shape: {} } },
    });
    const model = (opType: string, elemType: number, result: Type) =>
      encodeModel(
        create(ModelProtoSchema, {
          irVersion: 10n,
          opsetImport: [{ domain: "", version: 21n }],
          graph: {
            name: "foreign",
            node: [{ opType, input: ["x"], output: ["y"] }],
            input: [{ name: "x", type: tensorType(elemType) }],
            output: [{ name: "y", type: result }],
          },
        }),
      );
    const sequence: Type = { value: { case: "sequenceType", value: { elemType: tensorType(1) } } };
    await expect(runtime.createProgram(model("SequenceConstruct", 1, sequence))).rejects.toThrow(
      "the output y of this model is not a tensor",
    );
    await expect(runtime.createProgram(model("Identity", 8, tensorType(8)))).rejects.toThrow(
      "ONNX data type 8 has no dtype here",
    );
  });

  it("shows its dtype, its shape and its first values", async () => {
    const { inspect } = await import("node:util");
    const tensor = runtime.createTensor("float32", [2, 4], Float32Array.of(1, 2.5, -3, 4, 5, 6, 7, 8));
    expect(inspect(tensor)).toBe("float32 [2, 4]: 1, 2.5, -3, 4, 5, 6, …");
    tensor.dispose();
    expect(inspect(tensor)).toBe("float32 [2, 4], disposed");
    using half = runtime.createTensor("float16", [2], Uint16Array.of(0x3c00, 0xc000));
    expect(inspect(half)).toBe("float16 [2]: 1, -2");
    using whole = runtime.createTensor("int64", [1], BigInt64Array.of(7n));
    expect(inspect(whole)).toBe("int64 [1]: 7");
  });

  it("that ask for more memory than there is fail in a sentence", async () => {
    const length = input("length", "float32", ["n", "n"]);
    using program = await compile(runtime, { y: expand(scalar(1), ["n*n*n*n*n*n"]).add(sum(length)) });
    using given = runtime.createTensor("float32", [1000, 1000]);
    await expect(program.run({ length: given })).rejects.toThrow(/the engine (ran out of memory|failed)/);
  });

  it("are refused when there are none", async () => {
    await expect(runtime.createProgram(new Uint8Array())).rejects.toThrow("the engine failed");
  });
});

describe("a device", () => {
  it("that the library or the machine lacks is refused in a sentence", () => {
    for (const device of ["webgpu", "cuda", "wasm"] as const) {
      try {
        expect(createRuntime({ device }).device).toBe(device);
      } catch (error) {
        expect(error).toBeInstanceOf(LineageError);
        expect((error as LineageError).code).toBe("unsupported");
        expect((error as LineageError).message).toMatch(
          /has no device (webgpu|cuda|wasm) here; it has .*cpu/,
        );
      }
    }
    for (const threads of [20_000, 99_999_999, 1.5])
      expect(() => createRuntime({ threads })).toThrow(/^threads must be a whole number from 1 to \d+, not/);
    vi.stubEnv("LINEAGE_THREADS", "abc");
    expect(() => createRuntime()).toThrow(/^LINEAGE_THREADS must be a whole number from 1 to \d+, not "abc"/);
    vi.unstubAllEnvs();
    expect(() => createRuntime({ threads: 0 })).toThrow("threads must be a whole number from 1 to");
  });
});

describe("the engine's library", () => {
  it("is found by each platform's name, in a folder of any name", async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "bibliothèque é "));
    try {
      const names = {
        linux: "libonnxruntime.so.1",
        darwin: "libonnxruntime.1.dylib",
        win32: "onnxruntime.dll",
      };
      for (const [platform, name] of Object.entries(names) as [NodeJS.Platform, string][]) {
        const host = { platform, arch: "arm64", musl: false };
        expect(() => locateLibrary(host, folder)).toThrow(`has no library for ${platform} on arm64`);
        const binaries = path.join(folder, "bin/napi-v6", platform, "arm64");
        await mkdir(binaries, { recursive: true });
        await writeFile(path.join(binaries, name), "");
        expect(path.basename(locateLibrary(host, folder))).toBe(name);
      }
      expect(() => locateLibrary({ platform: "freebsd", arch: "x64", musl: false }, folder)).toThrow(
        "freebsd",
      );
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it("is the newest of the copies there are, of equal ones the project's", async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "engines "));
    try {
      const engine = async (name: string, version: string) => {
        const place = path.join(folder, name);
        await mkdir(place);
        await writeFile(path.join(place, "package.json"), JSON.stringify({ version }));
        return place;
      };
      const own = await engine("own", "1.30.0");
      const older = await engine("older", "1.24.0-dev.20251116");
      const equal = await engine("equal", "1.30.0");
      const newer = await engine("newer", "1.102.0");
      expect(newestEngine([own, older])).toBe(own);
      expect(newestEngine([own, equal])).toBe(equal);
      expect(newestEngine([own, newer])).toBe(newer);
      expect(newestEngine([path.join(folder, "none"), older])).toBe(older);
      expect(newestEngine([path.join(folder, "none")])).toBeUndefined();
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it("does not exist for musl, which is said", () => {
    expect(() => locateLibrary({ platform: "linux", arch: "x64", musl: true })).toThrow(
      "this is a musl system (Alpine); use an image with glibc",
    );
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

  it("can be ended in the middle of a run, and leaves the engine to the others", async () => {
    const dist = (name: string) =>
      JSON.stringify(new URL(`../../dist/src/${name}/index.js`, import.meta.url).href);
    const worker = new Worker(
      `(async () => {
        const { createRuntime } = await import(${dist("runtime")});
        const { compile, input, matmul } = await import(${dist("graph")});
        const runtime = createRuntime();
        const x = input("x", "float32", [1024, 1024]);
        const program = await compile(runtime, { y: matmul(matmul(matmul(x, x), x), x) });
        void program.run({ x: runtime.createTensor("float32", [1024, 1024]) });
        require("node:worker_threads").parentPort.postMessage("running");
      })()`,
      { eval: true },
    );
    await new Promise((resolve) => worker.once("message", resolve));
    await worker.terminate();
    using program = await compile(runtime, { y: input("x", "float32", [1]).mul(2) });
    using x = runtime.createTensor("float32", [1], Float32Array.of(4));
    expect([...(await program.run({ x }))["y"]!.view()]).toEqual([8]);
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

  it("exits cleanly in the middle of a run", () => {
    const dist = (name: string) =>
      JSON.stringify(new URL(`../../dist/src/${name}/index.js`, import.meta.url).href);
    const script = `
      const { createRuntime } = await import(${dist("runtime")});
      const { compile, input, matmul } = await import(${dist("graph")});
      const runtime = createRuntime();
      const x = input("x", "float32", [1024, 1024]);
      const program = await compile(runtime, { y: matmul(matmul(matmul(x, x), x), x) });
      void program.run({ x: runtime.createTensor("float32", [1024, 1024]) });
      setImmediate(() => process.exit(0));`;
    execFileSync(process.execPath, ["--input-type=module", "-e", script]);
  });
});
