import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { type Server, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { type Browser, type Page, chromium } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compile, input } from "../../src/graph/index.js";
import { saveOnnx } from "../../src/formats/index.js";
import { Gpt2, gpt2Config } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const executable = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find((file) => existsSync(file));
const root = fileURLToPath(new URL("../..", import.meta.url));
const contentTypes: Record<string, string> = {
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
  ".html": "text/html",
};

/** Serves a folder on a free port of this machine. */
async function serve(folder: string): Promise<Server> {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url!, "http://localhost");
    const file = path.join(folder, pathname === "/" ? "index.html" : pathname);
    readFile(file).then(
      (content) =>
        response
          .writeHead(200, { "content-type": contentTypes[path.extname(file)] ?? "application/octet-stream" })
          .end(content),
      () => response.writeHead(404).end(),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

describe.skipIf(!executable)("a page in headless Chromium (needs Debian's chromium)", () => {
  let folder: string;
  let server: Server;
  let browser: Browser;
  let page: Page;

  beforeAll(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), "page à essayer "));
    await mkdir(path.join(folder, "node_modules"));
    await symlink(root, path.join(folder, "node_modules/lineage"));
    await symlink(
      path.join(root, "node_modules/onnxruntime-web"),
      path.join(folder, "node_modules/onnxruntime-web"),
    );
    const source = await readFile(path.join(root, "tests/browser/page.ts"), "utf8");
    await writeFile(path.join(folder, "main.ts"), source.replace("../../src/browser.js", "lineage/browser"));
    await writeFile(path.join(folder, "index.html"), '<script type="module" src="/main.ts"></script>');
    // Nothing is configured but the folder: what `vite build` does in a user's project.
    const { build } = await import("vite");
    await build({ root: folder, configFile: false, logLevel: "error" });
    server = await serve(path.join(folder, "dist"));
    browser = await chromium.launch({
      executablePath: executable!,
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    });
    page = await browser.newPage();
    const problems: string[] = [];
    page.on("pageerror", (error) => problems.push(error.message));
    await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    await page
      .waitForFunction("typeof run === 'function'", undefined, { timeout: 20_000 })
      .catch((error: unknown) => {
        throw new Error(`the page did not start: ${problems.join("; ")}`, { cause: error });
      });
  });

  afterAll(async () => {
    await browser?.close();
    server?.close();
    await rm(folder, { recursive: true });
  });

  it("built by Vite without configuration trains a GPT-2 and writes with it", async () => {
    const { losses, ids } = (await page.evaluate("run()")) as { losses: number[]; ids: number[] };
    expect(losses[0]).toBeCloseTo(Math.log(8), 0);
    expect(losses.at(-1)!).toBeLessThan(0.1);
    expect(ids).toEqual([3, 4, 0, 1, 2, 3, 4]);
  });

  it("gets a sentence for each mistake, as in Node", async () => {
    const messages = (await page.evaluate("mistakes()")) as string[];
    const expected = [
      /^the engine failed in module model.embedding, at node model.embedding\/gather#0: indices element out of data bounds/,
      /^demo: table must be float32 \[4, 2\], not int64 \[2\]/,
      /^demo: the dimension n is . in .* but . in .*; it must be one number in one run/,
      /^demo: the input table is missing/,
      /^demo has no output named z/,
      /^createTensor: \[-1\] is not a shape/,
      /^the engine failed: /,
      /^the browser runtime has the device wasm, not cuda/,
      /^enough/,
      /was used after it was disposed/,
      /^demo was run after it was disposed/,
    ];
    expect(messages.length).toBe(expected.length);
    messages.forEach((message, index) => {
      expect(message).toMatch(expected[index]!);
    });
  });

  it("runs an exported model, weights in a file beside it, with onnxruntime-web alone", async () => {
    const runtime = createRuntime();
    const model = new Gpt2(
      gpt2Config({ hiddenSize: 32, numLayers: 2, numHeads: 2, vocabSize: 50, contextLength: 16 }),
    );
    using weights = Weights.initialize(runtime, model, 3);
    const outputs = { logits: model.forward(input("inputIds", "int64", ["batch", "sequence"])) };
    await saveOnnx(path.join(folder, "dist/model.onnx"), outputs, { weights });
    const ids = [4, 8, 15, 16, 23, 42];
    const theirs = (await page.evaluate(`runExported(${JSON.stringify(ids)})`)) as number[];
    using program = await compile(runtime, outputs);
    const own = await program.run({
      ...weights.tensors,
      inputIds: runtime.createTensor("int64", [1, ids.length], BigInt64Array.from(ids, BigInt)),
    });
    const expected = (await own["logits"]!.read()) as Float32Array;
    expect(theirs.length).toBe(6 * 50);
    expect(Math.max(...theirs.map((value, index) => Math.abs(value - expected[index]!)))).toBeLessThan(1e-5);
  });
});
