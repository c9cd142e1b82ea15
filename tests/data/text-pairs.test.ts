import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, describe, expect, it } from "vitest";
import { readTextPairs } from "../../src/data/index.js";

const root = await mkdtemp(path.join(os.tmpdir(), "pairs-"));
afterAll(() => rm(root, { recursive: true, force: true }));
let count = 0;
async function file(name: string, content: string | Uint8Array): Promise<string> {
  const place = path.join(root, `${count++}-${name}`);
  await writeFile(place, content);
  return place;
}
const texts = (pairs: readonly { source: string; target: string }[]) =>
  pairs.map(({ source, target }) => [source, target]);

describe("readTextPairs", () => {
  it("finds the columns by their names, or takes the two that there are in order", async () => {
    const named = await file("a.csv", "id,document,summary\n1,A long text.,Short.\n2,Another.,One.\n");
    expect(texts((await readTextPairs({ data: named })).pairs)).toEqual([
      ["A long text.", "Short."],
      ["Another.", "One."],
    ]);
    const bare = await file("b.tsv", "Ein Hund.\tA dog.\nZwei Hunde.\tTwo dogs.\n");
    const { pairs } = await readTextPairs({ data: bare });
    expect(pairs).toEqual([
      { row: 1, source: "Ein Hund.", target: "A dog." },
      { row: 2, source: "Zwei Hunde.", target: "Two dogs." },
    ]);
    const languages = await file("c.tsv", "de\ten\nEin Hund.\tA dog.\n");
    expect(texts((await readTextPairs({ data: languages })).pairs)).toEqual([["Ein Hund.", "A dog."]]);
    const turned = await readTextPairs({ data: languages, source: "en" });
    expect(texts(turned.pairs)).toEqual([["A dog.", "Ein Hund."]]);
  });

  it("looks into structures, and takes numbers for the text that writes them", async () => {
    const nested = await file(
      "d.jsonl",
      '{"translation": {"de": "Ein Hund.", "en": "A dog."}, "score": 4}\n{"translation": {"de": "Ja."}, "score": 5}\n',
    );
    await expect(
      readTextPairs({ data: nested, source: "translation.de", target: "translation.en" }),
    ).rejects.toThrow("row 2 has no text in translation.en");
    const kept = await readTextPairs({
      data: nested,
      source: "translation.de",
      target: "translation.en",
      skipBadRows: true,
    });
    expect(texts(kept.pairs)).toEqual([["Ein Hund.", "A dog."]]);
    expect(kept.bad).toEqual([{ number: 2, reason: "has no text in translation.en" }]);
    const scored = await readTextPairs({ data: nested, source: "translation.de", target: "score" });
    expect(texts(scored.pairs)).toEqual([
      ["Ein Hund.", "4"],
      ["Ja.", "5"],
    ]);
    await expect(
      readTextPairs({ data: nested, source: "translation.constructor", target: "score" }),
    ).rejects.toThrow("no text in translation.constructor");
  });

  it("reads two files line by line, packed or not, whatever ends their lines", async () => {
    const german = await file("t.de.gz", gzipSync("Ein Hund.\r\nZwei Hunde.\r\n"));
    const english = await file("t.en", "\ufeffA dog.\nTwo dogs.");
    expect((await readTextPairs({ data: german, targets: english })).pairs).toEqual([
      { row: 1, source: "Ein Hund.", target: "A dog." },
      { row: 2, source: "Zwei Hunde.", target: "Two dogs." },
    ]);
  });

  it("refuses files of unequal length and empty texts, with the numbers of their lines", async () => {
    const [three, two] = [await file("x.de", "a\nb\nc\n"), await file("x.en", "a\nb\n")];
    await expect(readTextPairs({ data: three, targets: two })).rejects.toThrow(
      /x\.de has 3 lines and .*x\.en 2: line i/,
    );
    const holes = await file("y.en", "a\n \nc\n");
    await expect(readTextPairs({ data: three, targets: holes })).rejects.toThrow(
      /line 2 is empty in .*y\.en/,
    );
    const kept = await readTextPairs({ data: three, targets: holes, skipBadRows: true });
    expect(kept.pairs.map(({ row }) => row)).toEqual([1, 3]);
    const table = await file("z.csv", "source,target\na,b\n,d\ne,\n");
    await expect(readTextPairs({ data: table })).rejects.toThrow(
      /2 of 3 rows cannot be used[^]*row 3 has no text in source[^]*row 4 has no text in target/,
    );
  });

  it("names the option that tells what it cannot guess", async () => {
    const odd = await file("odd.csv", "a,b,c\n1,2,3\n");
    await expect(readTextPairs({ data: odd })).rejects.toThrow("name it with --source");
    await expect(readTextPairs({ data: odd, source: "b", target: "d" })).rejects.toThrow(
      'no column named "d"; it has a, b, c. Name the right one with --target',
    );
    await expect(readTextPairs({ data: odd, source: "b", target: "b" })).rejects.toThrow(
      "cannot be the source and the target",
    );
    const lines = await file("train.de", "Ein Hund.\n");
    await expect(readTextPairs({ data: lines })).rejects.toThrow(
      "give the file of the targets with --targets",
    );
  });
});
