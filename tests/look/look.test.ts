import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { type Browser, type Page, chromium } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadModel, saveModel } from "../../src/checkpoints/index.js";
import { type Looked, createRuntime, load, systems, train } from "../../src/index.js";
import { Lens, lookPage } from "../../src/look/index.js";
import { t5Table } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { trainWordPiece } from "../../src/tokenizers/index.js";
import { lineage } from "../support/cli.js";
import { sentences, writeTinyBert } from "../support/tiny-encoder.js";

let folder = "";
const place = (name: string): string => path.join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-look-"));
  await writeFile(place("text.txt"), "the cat sat on the mat and the dog sat on the log.\n".repeat(60));
  await train({
    system: "llama",
    data: place("text.txt"),
    sizes: { hiddenSize: 32, numLayers: 2, numHeads: 2, contextLength: 64 },
    vocabSize: 270,
    steps: 20,
    out: place("llama"),
  });
  for (const [name, head] of [
    ["encoder", "fill-mask"],
    ["mood", "classify"],
  ] as const) {
    await mkdir(place(name));
    await writeTinyBert(place(name), head);
  }
});
afterAll(() => rm(folder, { recursive: true }));

const rowsOf = ({ attention, tokens }: Looked): number[] =>
  attention.flatMap(({ weights }) =>
    Array.from({ length: weights.length / tokens.length }, (_, row) =>
      weights.slice(row * tokens.length, (row + 1) * tokens.length).reduce((sum, weight) => sum + weight, 0),
    ),
  );

describe("a loaded model lets itself be looked at", () => {
  it("as a decoder: what a lens sees in its weights, and nothing that comes later", async () => {
    using model = await load(place("llama"), { kind: "decoder" });
    const looked = await model.look("the cat sat");
    using checkpoint = await opened("llama");
    using lens = await Lens.create(checkpoint.model, checkpoint.weights);
    const ids = looked.tokens.map(({ id }) => id);
    const seen = await lens.look({ inputIds: { data: Int32Array.from(ids), shape: [1, ids.length] } });
    expect(looked.tokens.map(({ text }) => text).join("")).toContain("the cat sat");
    expect(looked.hiddenStates.length).toBe(3);
    looked.attention.forEach(({ layer, heads, weights }, index) => {
      expect([layer, heads]).toEqual([index, 2]);
      expect(weights).toEqual(seen.attention[index]!.data);
      weights.forEach((weight, at) => {
        const [row, column] = [Math.floor(at / ids.length) % ids.length, at % ids.length];
        if (column > row) expect(weight).toBe(0);
      });
    });
    for (const sum of rowsOf(looked)) expect(sum).toBeCloseTo(1, 5);
    await expect(model.look("the cat", { pair: "sat" })).rejects.toThrow("one text");
  });

  it("as an encoder, with a task's head too, over two texts, cut where it is told to", async () => {
    using model = await load(place("encoder"), { kind: "encoder" });
    const looked = await model.look("the cat was good", { pair: "bad", layers: [1] });
    expect(looked.tokens.map(({ text }) => text)).toEqual(
      "[CLS] the cat was good [SEP] bad [SEP]".split(" "),
    );
    expect(looked.attention.map(({ layer }) => layer)).toEqual([1]);
    for (const sum of rowsOf(looked)) expect(sum).toBeCloseTo(1, 5);
    const cut = await model.look("the cat was good", { maxTokens: 4, hiddenStates: false });
    expect([cut.tokens.length, cut.truncated, cut.hiddenStates]).toEqual([4, 2, []]);
    await expect(model.look("the cat", { layers: [7] })).rejects.toThrow("from 0 to 1");
    using mood = await load(place("mood"), { task: "classify" });
    expect((await mood.look("good")).attention.length).toBe(2);
  });

  it("until it is disposed, also meanwhile", async () => {
    const model = await load(place("encoder"), { kind: "encoder" });
    const looking = [model.look("the cat"), model.look("the dog", { layers: [0] })];
    model.dispose();
    for (const result of await Promise.allSettled(looking))
      if (result.status === "rejected") expect(result.reason).toMatchObject({ code: "disposed" });
    await expect(model.look("the cat")).rejects.toMatchObject({ code: "disposed" });
  });
});

async function opened(name: string) {
  const runtime = createRuntime();
  const checkpoint = await loadModel(runtime, place(name), { kind: "decoder" });
  return { ...checkpoint, [Symbol.dispose]: () => checkpoint.weights.dispose() };
}

describe("lineage look", () => {
  it("writes a page and a picture, and says what it left out", async () => {
    const out = place("cat.html");
    const said = await lineage(
      ...["look", "--model", place("llama"), "--text", "the cat sat on the mat", "--max-tokens", "5"],
      ...["--out", out],
    );
    expect(said.status, said.stderr).toBe(0);
    expect(said.stderr).toMatch(/The model read 5 tokens; \d+ more were left out/);
    expect(said.stderr).toContain("2 layers of 2 heads");
    expect(await readFile(out, "utf8")).toMatch(/^<!doctype html>/);
    const png = place("cat.png");
    if (existsSync(png)) expect((await readFile(png)).subarray(1, 4).toString()).toBe("PNG");
  });

  it("writes all numbers of the layers that are asked for", async () => {
    const out = place("maps.json");
    const said = await lineage(
      ...["look", "--model", place("mood"), "--text", "the cat", "--pair", "the dog", "--layers", "1"],
      ...["--out", out, "--json"],
    );
    expect(JSON.parse(said.stdout)).toMatchObject({ files: [out], layers: [1], heads: 2 });
    const { views } = JSON.parse(await readFile(out, "utf8")) as {
      views: { rows: unknown[]; attention: { layer: number; weights: number[][][] }[] }[];
    };
    const { weights } = views[0]!.attention[0]!;
    expect([weights.length, weights[0]!.length, weights[0]![0]!.length]).toEqual([2, 7, 7]);
    for (const row of weights.flat()) expect(row.reduce((a, b) => a + b)).toBeCloseTo(1, 5);
  });

  it("looks at an encoder-decoder from both sides and across", async () => {
    const tokenizer = trainWordPiece([...sentences, ...sentences], { vocabSize: 90 });
    const config = t5Table.create({
      vocabSize: tokenizer.vocabSize,
      hiddenSize: 16,
      headSize: 8,
      intermediateSize: 16,
      numLayers: 2,
      numHeads: 2,
    });
    const model = systems.t5.create(config);
    using runtime = createRuntime();
    using weights = Weights.initialize(runtime, model, 3);
    await saveModel(place("t5"), { system: systems.t5, model, weights, tokenizer });
    const out = place("t5.json");
    const look = ["look", "--model", place("t5"), "--text", "the cat was good", "--out", out];
    const said = await lineage(...look, "--pair", "red song");
    expect(said.status, said.stderr).toBe(0);
    const { views } = JSON.parse(await readFile(out, "utf8")) as {
      views: {
        name: string;
        rows: { text: string }[];
        columns: unknown[];
        attention: { weights: number[][][] }[];
      }[];
    };
    // [CLS] the cat was good [SEP]; and the start, [CLS] red song.
    expect(views.map(({ rows, columns }) => [rows.length, columns.length])).toEqual([
      [4, 6],
      [6, 6],
      [4, 4],
    ]);
    for (const { attention, rows, columns } of views) {
      expect(attention.length).toBe(2);
      for (const { weights: heads } of attention) {
        expect([heads.length, heads[0]!.length, heads[0]![0]!.length]).toEqual([
          2,
          rows.length,
          columns.length,
        ]);
        for (const row of heads.flat()) expect(row.reduce((a, b) => a + b)).toBeCloseTo(1, 5);
      }
    }
    expect((await lineage(...look)).stderr).toContain("what it writes");
    const page = place("t5.html");
    expect(
      (await lineage("look", "--model", place("t5"), "--text", "the cat", "--pair", "red", "--out", page))
        .status,
    ).toBe(0);
    expect(await readFile(page, "utf8")).toContain("from what is written to the source");
  });

  it.each([
    [["--layers", "2-1"], "--layers 2-1"],
    [["--layers", "one"], "0,3,8-11"],
    [["--layers", "9"], "from 0 to 1"],
    [["--out", "look.pdf"], ".html, .png, .svg or .json"],
  ])("refuses %j in a sentence", async (options, sentence) => {
    const said = await lineage("look", "--model", place("llama"), "--text", "the cat", ...options);
    expect(said.status).toBe(1);
    expect(said.stderr).toContain(sentence);
  });
});

/** A model's view of tokens that mean harm, with weights that are known. */
function hostile(count = 6): Looked {
  const texts = [
    "</script><script>alert(1)</script>",
    " <b>bold</b>",
    "\u202eevil",
    "שלום",
    "👨‍👩‍👧",
    "\u001b[2J",
  ];
  const tokens = Array.from({ length: count }, (_, id) => ({ id, text: texts[id % texts.length]! }));
  const weights = new Float32Array(2 * count * count);
  for (let head = 0; head < 2; head++)
    for (let row = 0; row < count; row++) weights[(head * count + row) * count + ((row + head) % count)] = 1;
  return {
    model: 'a "model" <i>',
    tokens,
    attention: [{ layer: 3, heads: 2, weights }],
    hiddenStates: [],
    truncated: 0,
  };
}

describe("a page of attention", () => {
  it("stays small for long texts and says what it leaves out", () => {
    const many: Looked = {
      ...hostile(400),
      attention: Array.from({ length: 40 }, (_, layer) => ({ ...hostile(400).attention[0]!, layer })),
    };
    const page = lookPage(many, { name: "long" });
    expect(page.length).toBeLessThan(20e6);
    const shown = Math.floor(Math.sqrt(6_000_000 / 80));
    expect(page).toContain(`Of 400 tokens the page shows the first ${shown}`);
  });

  it("asks no other host for anything, and lets nothing end its script", () => {
    const page = lookPage(hostile(), { name: "</title><script>alert(2)</script>" });
    expect(page).not.toMatch(/https?:|src=|@import|url\(/);
    expect(page.match(/<script/g)!.length).toBe(2);
    expect(page.match(/<\/script/g)!.length).toBe(2);
  });
});

const executable = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find((file) => existsSync(file));

describe.skipIf(!executable)("a page of attention in Chromium (needs Debian's chromium)", () => {
  let browser: Browser;
  let page: Page;
  const problems: string[] = [];

  beforeAll(async () => {
    await writeFile(place("hostile.html"), lookPage(hostile(), { name: "<script>alert(3)</script>" }));
    browser = await chromium.launch({
      executablePath: executable!,
      args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
    });
    page = await browser.newPage({ viewport: { width: 1200, height: 900 } });
    page.on("pageerror", ({ message }) => problems.push(message));
    page.on("console", (message) => problems.push(message.text()));
    page.on("dialog", (dialog) => {
      problems.push(dialog.message());
      void dialog.dismiss();
    });
    page.on("request", (request) => {
      if (!request.url().startsWith("file:")) problems.push(request.url());
    });
    await page.goto(pathToFileURL(place("hostile.html")).href);
  });
  afterAll(() => browser?.close());

  const hover = async (row: number, column: number): Promise<string> => {
    const { x, y, left, top, cell } = await page.evaluate(() => {
      const canvas = document.getElementById("matrix") as HTMLCanvasElement;
      const box = canvas.getBoundingClientRect();
      // Six tokens to each side: cells of 30 pixels, and 8 behind them.
      return { x: box.x, y: box.y, left: box.width - 188, top: box.height - 188, cell: 30 };
    });
    await page.mouse.move(x + left + (column + 0.5) * cell, y + top + (row + 0.5) * cell);
    return page.locator("#tip").innerText();
  };

  it("tells the weight under the pointer", async () => {
    await page.selectOption("#heads", "0");
    expect(await hover(1, 1)).toBe("from 1: ␣<b>bold</b>\nto 1: ␣<b>bold</b>\nweight 1.000");
    expect(await hover(1, 2)).toContain("weight 0.000");
    await page.selectOption("#heads", "1");
    expect(await hover(1, 2)).toBe("from 1: ␣<b>bold</b>\nto 2: <U+202E>evil\nweight 1.000");
    await page.selectOption("#heads", "-1");
    expect(await hover(5, 0)).toBe(
      "from 5: <U+001B>[2J\nto 0: </script><script>alert(1)</script>\nweight 0.500",
    );
  });

  it("shows where the token looks that is pointed at", async () => {
    await page.selectOption("#heads", "1");
    await page.locator("#from .chip").nth(3).hover();
    expect(await page.locator("#choice").innerText()).toBe("שלום (token 3)");
    expect(await page.locator("#most tr").first().innerText()).toBe("👨‍👩‍👧\t1.000\t");
    await page.locator("#to .chip").nth(4).hover();
    expect(await page.locator("#tip").innerText()).toBe("4: 👨‍👩‍👧\nweight 1.000");
  });

  it("chooses a head by its small picture, and names it", async () => {
    const box = (await page.locator("#overview").boundingBox())!;
    await page.mouse.click(box.x + box.width - 40, box.y + box.height - 40);
    expect(await page.locator("#which").innerText()).toBe("Layer 3, head 1");
    expect(await page.locator("#heads").inputValue()).toBe("1");
  });

  it.each(["light", "dark"] as const)(
    "is drawn for a %s screen, and nothing in it is wider than it",
    async (scheme) => {
      await page.emulateMedia({ colorScheme: scheme });
      const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      expect(background).toBe(scheme === "light" ? "rgb(255, 255, 255)" : "rgb(11, 17, 32)");
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(1200);
      expect(problems).toEqual([]);
    },
  );
});
