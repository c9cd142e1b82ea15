import { existsSync } from "node:fs";
import { type Browser, chromium } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  attentionPicture,
  confusionPicture,
  fitText,
  lossChart,
  textWidth,
} from "../../src/pictures/index.js";

const long = "a_label_that_is_much_longer_than_anybody_would_write_but_that_some_tool_makes ".repeat(3);
const falling = (count: number, from = 4) =>
  Array.from({ length: count }, (_, index) => ({ step: index * 700, loss: from * 0.97 ** index }));
const classes = (count: number, name = "class") => ({
  classes: Array.from({ length: count }, (_, index) => `${name} ${index}`),
  counts: Array.from({ length: count }, (_, row) =>
    Uint32Array.from({ length: count }, (_, column) => (row === column ? 123_456 : (row * column) % 13)),
  ),
});

const pictures: Readonly<Record<string, string>> = {
  curves: lossChart("Loss of mine", [
    { label: "training", points: falling(200) },
    { label: "held out", points: falling(20) },
  ]),
  "long words": lossChart(
    long,
    [long, `${long}2`, "short"].map((label, index) => ({ label, points: falling(30, index + 2) })),
    { x: long, y: long },
  ),
  "many curves": lossChart(
    "Twenty",
    Array.from({ length: 20 }, (_, index) => ({
      label: `learning rate 1e-${index}`,
      points: falling(9, index + 1),
    })),
  ),
  "one point": lossChart("One", [{ label: "training", points: [{ step: 5, loss: 2 }] }]),
  nothing: lossChart("None", [{ label: "training", points: [] }]),
  gaps: lossChart("Gaps", [
    {
      label: "training",
      points: [3, NaN, 2.5, 2.4, Infinity, 2].map((loss, step) => ({ step, loss })),
    },
  ]),
  logarithmic: lossChart(
    "Both logarithmic",
    [
      {
        label: "training",
        points: Array.from({ length: 9 }, (_, i) => ({ step: 10 ** i, loss: 10 ** (3 - i) })),
      },
    ],
    { log: "both" },
  ),
  "narrow range": lossChart("Narrow", [
    {
      label: "training",
      points: Array.from({ length: 5 }, (_, i) => ({ step: 1_234_567 + i, loss: 2.000001 + i * 1e-7 })),
    },
  ]),
  "large numbers": lossChart("Large", [
    { label: "training", points: Array.from({ length: 5 }, (_, i) => ({ step: 3e9 * i, loss: 7e11 * i })) },
  ]),
  "two classes": confusionPicture("Held-out rows of mood", classes(2)),
  "sixty classes": confusionPicture("Held-out rows of sixty", classes(60)),
  "long classes": confusionPicture(long, classes(7, long)),
  "one class": confusionPicture("One", classes(1)),
  "many heads": attentionPicture(
    `Attention of ${long}`,
    [long, "A note."],
    [
      {
        name: long,
        rows: 3,
        columns: 3,
        maps: [0, 1].map((layer) => ({
          layer: 1000 + layer,
          heads: 64,
          weights: new Float32Array(64 * 9).fill(1 / 3),
        })),
      },
      {
        name: "cross",
        rows: 2,
        columns: 3,
        maps: [{ layer: 0, heads: 2, weights: new Float32Array(12).fill(1 / 3) }],
      },
    ],
  ),
};

interface Box {
  readonly text: string;
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

const unescaped = (text: string): string =>
  text.replace(/&#(\d+);/g, (_, code: string) => String.fromCharCode(Number(code)));

/** The boxes of a picture's texts as a wide font sets them. */
function boxesOf(svg: string): Box[] {
  return [...svg.matchAll(/<text ([^>]*)>(?:<title>[^<]*<\/title>)?([^<]*)<\/text>/g)].map(
    ([, attributes, content]) => {
      const get = (name: string): string | undefined =>
        new RegExp(`(?:^| )${name}="([^"]*)"`).exec(attributes!)?.[1];
      const text = unescaped(content!);
      const size = Number(get("font-size") ?? 12);
      const [width, half] = [textWidth(text, size), size / 2];
      const anchor = get("text-anchor") ?? "start";
      const start = anchor === "start" ? 0 : anchor === "middle" ? -width / 2 : -width;
      const turned = /translate\(([-\d.]+) ([-\d.]+)\) rotate\(-90\)/.exec(get("transform") ?? "");
      if (turned) {
        const [x, y] = [Number(turned[1]), Number(turned[2])];
        return { text, left: x - half, right: x + half, top: y - start - width, bottom: y - start };
      }
      const [x, y] = [Number(get("x")), Number(get("y"))];
      return { text, left: x + start, right: x + start + width, top: y - half, bottom: y + half };
    },
  );
}

const touch = (a: Box, b: Box): boolean =>
  a.left < b.right - 0.5 && b.left < a.right - 0.5 && a.top < b.bottom - 0.5 && b.top < a.bottom - 0.5;

function expectRoom(boxes: readonly Box[], svg: string): void {
  const [, width, height] = /viewBox="0 0 ([\d.]+) ([\d.]+)"/.exec(svg)!.map(Number) as [
    number,
    number,
    number,
  ];
  expect(boxes.length).toBeGreaterThan(0);
  for (const [place, box] of boxes.entries()) {
    expect(
      [box.left >= -0.5, box.right <= width + 0.5, box.top >= -0.5, box.bottom <= height + 0.5],
      box.text,
    ).toEqual([true, true, true, true]);
    for (const other of boxes.slice(place + 1))
      if (touch(box, other)) expect.fail(`“${box.text}” lies over “${other.text}”`);
  }
}

describe("Words of a picture stand apart and within it, in a wide font", () => {
  it.each(Object.keys(pictures))("%s", (name) => {
    expectRoom(boxesOf(pictures[name]!), pictures[name]!);
  });
});

describe("A chart", () => {
  it("leaves a gap where a point is not finite, and draws a point that stands alone", () => {
    const [path] = /d="([^"]*)"/.exec(pictures["gaps"]!)!;
    expect(path.match(/M/g)!.length).toBe(3);
    expect(pictures["gaps"]!.match(/<circle/g)!.length).toBe(2);
    expect(pictures["one point"]!.match(/<circle/g)!.length).toBe(1);
    expect(pictures["gaps"]!).not.toContain("NaN");
    expect(pictures["nothing"]!).toContain("no values yet");
  });

  it("names its axes with their units", () => {
    expect(pictures["curves"]!).toContain(">step</text>");
    expect(pictures["curves"]!).toContain(">loss, nats</text>");
  });

  it("sets powers of ten at equal distances on a logarithmic axis", () => {
    const places = boxesOf(pictures["logarithmic"]!)
      .filter(({ text }) => ["1", "1k", "1M"].includes(text))
      .filter(({ top }) => top > 320)
      .map(({ left, right }) => (left + right) / 2);
    expect(places.length).toBe(3);
    expect(places[1]! - places[0]!).toBeCloseTo(places[2]! - places[1]!, 0);
  });
});

it("Words that do not fit are cut between characters", () => {
  expect(fitText("short", 12, 100)).toBe("short");
  const family = "👨‍👩‍👧".repeat(20);
  const cut = fitText(family, 12, 100);
  expect(textWidth(cut, 12)).toBeLessThanOrEqual(100);
  expect(cut).toMatch(/^(👨‍👩‍👧)+…$/u);
});

const executable = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find((file) => existsSync(file));

describe.skipIf(!executable)("Chromium's own fonts (needs Debian's chromium)", () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: executable!, args: ["--no-sandbox", "--disable-gpu"] });
  });
  afterAll(() => browser?.close());

  it("leave the words of every picture apart and within it", async () => {
    const page = await browser.newPage();
    for (const [name, svg] of Object.entries(pictures)) {
      await page.setContent(`<body style="margin:0">${svg}</body>`);
      const boxes = await page.evaluate(() =>
        [...document.querySelectorAll("text")].map((element) => {
          const { left, right, top, bottom, height } = element.getBoundingClientRect();
          // Lines of a font are higher than its letters.
          const turned = element.hasAttribute("transform");
          const spare = turned ? 0 : height / 6;
          const side = turned ? (right - left) / 6 : 0;
          const text = [...element.childNodes]
            .filter(({ nodeName }) => nodeName === "#text")
            .map((n) => n.textContent)
            .join("");
          return { text, left: left + side, right: right - side, top: top + spare, bottom: bottom - spare };
        }),
      );
      try {
        expectRoom(boxes, svg);
      } catch (error) {
        throw new Error(name, { cause: error });
      }
    }
  }, 30_000);
});
