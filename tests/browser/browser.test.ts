import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { expect, it } from "vitest";

const browser = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find((file) => existsSync(file));
const root = fileURLToPath(new URL("../..", import.meta.url));

it.skipIf(!browser)(
  "a page trains a GPT-2 and writes with it, in headless Chromium (needs Debian's chromium)",
  async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
    const { build } = await import("vite");
    await build({
      root,
      configFile: false,
      logLevel: "error",
      build: {
        outDir: folder,
        emptyOutDir: false,
        lib: { entry: path.join(root, "tests/browser/page.ts"), formats: ["es"], fileName: "page" },
      },
    });
    const types: Record<string, string> = {
      ".js": "text/javascript",
      ".mjs": "text/javascript",
      ".wasm": "application/wasm",
      ".html": "text/html",
    };
    const server = createServer((request, response) => {
      const name = path.basename(new URL(request.url!, "http://localhost").pathname);
      const file = request.url!.startsWith("/wasm/")
        ? path.join(root, "node_modules/onnxruntime-web/dist", name)
        : path.join(folder, name);
      const page =
        name === "" ? Promise.resolve('<script type="module" src="/page.js"></script>') : readFile(file);
      page.then(
        (content) =>
          response
            .writeHead(200, { "content-type": types[path.extname(name || ".html")] ?? "text/html" })
            .end(content),
        () => response.writeHead(404).end(),
      );
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const chrome = await chromium.launch({
      executablePath: browser!,
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
    try {
      const page = await chrome.newPage();
      const problems: string[] = [];
      page.on("pageerror", (error) => problems.push(error.message));
      await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
      await page
        .waitForFunction("typeof run === 'function'", undefined, { timeout: 20_000 })
        .catch((error: unknown) => {
          throw new Error(`the page did not start: ${problems.join("; ")}`, { cause: error });
        });
      const { losses, ids } = (await page.evaluate("run()")) as { losses: number[]; ids: number[] };
      expect(losses[0]).toBeCloseTo(Math.log(8), 0);
      expect(losses.at(-1)!).toBeLessThan(0.1);
      expect(ids).toEqual([3, 4, 0, 1, 2, 3, 4]);
    } finally {
      await chrome.close();
      server.close();
      await rm(folder, { recursive: true });
    }
  },
);
