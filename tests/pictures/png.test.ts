import { describe, expect, it } from "vitest";

import { lossChart, pngOf } from "../../src/pictures/index.js";

const svg = lossChart("Loss", [
  {
    label: "training",
    points: [
      { step: 1, loss: 3 },
      { step: 20, loss: 1 },
    ],
  },
]);
const drawn = await pngOf(svg);

describe("a picture of the loss", () => {
  it.skipIf(!drawn)("is a PNG of twice its size, words and all (needs a font)", async () => {
    const png = Buffer.from(drawn!);
    expect(png.subarray(1, 4).toString()).toBe("PNG");
    expect([png.readUInt32BE(16), png.readUInt32BE(20)]).toEqual([1280, 720]);
    const without = await pngOf(svg.replaceAll(/<text[^>]*>[^<]*<\/text>/g, ""));
    expect(png.equals(without!)).toBe(false);
    expect(png.equals((await pngOf(svg.replace("training", "something")))!)).toBe(false);
    expect(png.equals((await pngOf(svg))!)).toBe(true);
  });
});
