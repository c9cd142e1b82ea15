import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { readFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LineageError } from "../../src/base/errors.js";
import { Random } from "../../src/base/random.js";
import { parseCsv } from "../../src/data/csv.js";
import { examplesOf, readTable } from "../../src/data/index.js";
import { readExamples } from "../../src/tasks/index.js";
import { Reference } from "../support/reference.js";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
});
afterAll(() => rm(folder, { recursive: true }));

const file = async (name: string, content: string | Uint8Array): Promise<string> => {
  const place = path.join(folder, name);
  await writeFile(place, content);
  return place;
};

describe("a table is read", () => {
  it("from CSV: quoted commas, quotes and line feeds, rows numbered as a spreadsheet shows them", async () => {
    const table = await readTable(
      await file("a.csv", '\uFEFFtext,label\r\n"one, ""two""\nthree",yes\r\n\r\nnaïve 日本 🙂,no\r\n'),
    );
    expect(table).toMatchObject({ columns: ["text", "label"], named: true });
    expect(table.rows).toEqual([
      { number: 2, values: { text: 'one, "two"\nthree', label: "yes" } },
      { number: 4, values: { text: "naïve 日本 🙂", label: "no" } },
    ]);
  });

  it("from SQuAD's nested JSON, each question a row with its context, as span data", async () => {
    const context = "🙂 Paris is in France.";
    const squad = {
      version: "v2.0",
      data: [
        {
          title: "Paris",
          paragraphs: [
            {
              context,
              qas: [
                {
                  id: "a1",
                  question: "Where is Paris?",
                  is_impossible: false,
                  answers: [
                    { text: "France", answer_start: 14 },
                    { text: "in France", answer_start: 11 },
                  ],
                },
                {
                  id: "a2",
                  question: "Where is Rome?",
                  is_impossible: true,
                  answers: [],
                  plausible_answers: [{ text: "France", answer_start: 14 }],
                },
              ],
            },
          ],
        },
        // Version 1.1 says nothing of what is impossible; a test set has no answers.
        { paragraphs: [{ context: "A cat.", qas: [{ question: "What?" }] }] },
      ],
    };
    for (const indent of [undefined, 2]) {
      const table = await readTable(await file("squad.json", JSON.stringify(squad, null, indent)));
      const { examples, columns } = examplesOf("span", table);
      expect(columns).toBe('text from "question", pair from "context", label from "answers"');
      expect(examples).toEqual([
        {
          row: 1,
          text: "Where is Paris?",
          pair: context,
          label: [
            { text: "France", start: 14 },
            { text: "in France", start: 11 },
          ],
        },
        { row: 2, text: "Where is Rome?", pair: context, label: [] },
        { row: 3, text: "What?", pair: "A cat." },
      ]);
    }
  });

  it("from SQuAD's nested JSON with what is missing in its place, and not from rows that only look like it", async () => {
    const broken = { data: [{ paragraphs: [{ context: "A cat.", qas: [{ answers: [] }] }] }] };
    await expect(readTable(await file("broken.json", JSON.stringify(broken)))).rejects.toThrow(
      /broken\.json: data\[0\]\.paragraphs\[0\]\.qas\[0\]\.question is missing$/,
    );
    const { rows } = await readTable(await file("row.jsonl", '{"data": [1], "label": "x"}\n'));
    expect(rows).toEqual([{ number: 1, values: { data: [1], label: "x" } }]);
  });

  it("from CSV with semicolons", async () => {
    const { rows } = await readTable(await file("b.csv", "text;label\na, b;x\n"));
    expect(rows[0]!.values).toEqual({ text: "a, b", label: "x" });
  });

  it("from TSV, where a quote is a character and a header may be missing", async () => {
    const table = await readTable(await file("c.tsv", "it 's a \"film , they said\t1\nbad\t0\n"), {
      header: (cells) => cells.includes("label"),
    });
    expect(table).toMatchObject({ columns: ["column1", "column2"], named: false });
    expect(table.rows.map(({ values }) => values["column1"])).toEqual(["it 's a \"film , they said", "bad"]);
  });

  it("from JSONL and a JSON array", async () => {
    const lines = await readTable(
      await file("d.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b", "n": [1]}\n'),
    );
    expect(lines.columns).toEqual(["text", "label", "n"]);
    expect(lines.rows.map(({ number }) => number)).toEqual([1, 3]);
    const list = await readTable(await file("d.json", '[{"text": "a"}]'));
    expect(list.rows).toEqual([{ number: 1, values: { text: "a" } }]);
  });

  it("from Parquet, as pyarrow writes it", async () => {
    const { rows, columns } = await readTable(
      fileURLToPath(new URL("../reference/values/rows.parquet", import.meta.url)),
    );
    expect(columns).toEqual(["text", "label", "score", "tokens"]);
    expect(rows).toEqual([
      { number: 1, values: { text: "naïve 日本 🙂", label: 1, score: 0.5, tokens: ["a", "b"] } },
      { number: 2, values: { text: "", label: 0, score: 1.5, tokens: [] } },
    ]);
  });

  it("as Python's csv reads it: quoted cells, and all three line endings in one file", async () => {
    const cases = new Reference("").json("csv-tables.json") as { text: string; rows: string[][] }[];
    for (const { text, rows } of cases) {
      const table = await readTable(await file("python.csv", text));
      const read = table.rows.map(({ values }) => Object.values(values));
      expect([table.columns, ...read], JSON.stringify(text)).toEqual(rows);
    }
    expect(cases.length).toBeGreaterThan(100);
    const mixed = await readTable(await file("mixed.tsv", "text\tlabel\r\na\tx\r\nb\ty\nc\tz\rd\tw"));
    expect(mixed.rows.map(({ values }) => values["label"])).toEqual(["x", "y", "z", "w"]);
  });

  it("as pandas and Python's csv read it where quotes stand anywhere", async () => {
    const cases = new Reference("").json("csv-quotes.json") as { text: string; rows: string[][] }[];
    for (const { text, rows } of cases)
      expect(parseCsv(text, ",", true).map(({ cells }) => cells)).toEqual(rows);
    expect(cases.length).toBe(150);
  });

  it("with 64-bit integers apart, in JSONL, a JSON array and Parquet", async () => {
    const [a, b] = ["9007199254740992", "9007199254740993"];
    const lines = `{"text": "say ${b} \\"x\\" 1", "label": ${a}, "n": [${b}, -${b}, 1.5e300, 12]}\n{"text": "b", "label": ${b}}\n`;
    const array = `[${lines.trim().replace("\n", ",")}]`;
    for (const [name, content] of [
      ["long.jsonl", lines],
      ["long.json", array],
    ] as const) {
      const table = await readTable(await file(name, content));
      expect(table.rows[0]!.values).toMatchObject({
        text: `say ${b} "x" 1`,
        n: [BigInt(b), -BigInt(b), 1.5e300, 12],
      });
      expect(examplesOf("classify", table).examples.map(({ label }) => label)).toEqual([a, b]);
    }
    const parquet = await readTable(
      fileURLToPath(new URL("../reference/values/long-labels.parquet", import.meta.url)),
    );
    expect(examplesOf("classify", parquet).examples.map(({ label }) => label)).toEqual([a, b, "1"]);
  });

  it("from a packed file", async () => {
    const { rows } = await readTable(await file("z.csv.gz", gzipSync("text,label\na,x\n")));
    expect(rows[0]!.values).toEqual({ text: "a", label: "x" });
    await expect(readTable(await file("y.csv.gz", "no"))).rejects.toThrow("cannot be unpacked");
    await expect(readTable(await file("y.parquet.gz", "no"))).rejects.toThrow("cannot be read as a table");
  });

  it("with a header that names columns of numbers, whatever the names", async () => {
    const table = await readTable(await file("ab.csv", "a,b\n1,2\n"), { header: () => false });
    expect(table).toMatchObject({ columns: ["a", "b"], named: true });
    expect(() => examplesOf("classify", table)).toThrow("has no column for the text; it has a, b");
    const data = await readTable(await file("ac.csv", "good film,1\nbad film,0\n"), { header: () => false });
    expect(data).toMatchObject({ named: false });
    expect(data.rows).toHaveLength(2);
  });

  it("with a row's own columns only", async () => {
    const { rows } = await readTable(
      await file("proto.jsonl", '{"__proto__": 1, "a": 2}\n{"toString": 1}\n'),
    );
    expect(rows[0]!.values["__proto__"]).toBe(1);
    expect(rows[0]!.values["toString"]).toBeUndefined();
  });

  it("from UTF-16 with its mark, and from an encoding that is named", async () => {
    const utf16 = new Uint8Array(Buffer.from("\uFEFFtext,label\ncafé,x\n", "utf16le"));
    expect((await readTable(await file("e.csv", utf16))).rows[0]!.values["text"]).toBe("café");
    const latin = await file("f.csv", new Uint8Array(Buffer.from("text,label\ncafé,x\n", "latin1")));
    const { rows } = await readTable(latin, { encoding: "windows-1252" });
    expect(rows[0]!.values["text"]).toBe("café");
    await expect(readTable(latin)).rejects.toThrow(/f\.csv: line 2 is not UTF-8; save the file as UTF-8/);
  });
});

describe("a table that cannot be read is refused with its row:", () => {
  const refused = async (name: string, content: string, message: string | RegExp) => {
    await expect(readTable(await file(name, content))).rejects.toThrow(message);
  };

  it("quotes that are never closed, all of them at once", async () => {
    await refused("g.csv", 'text,label\na,b\n"open,x\nmore,y\n', "row 3 opens a quote that is never closed");
    const several = 'text,label\na,b\nmore,y,z\nc,"d\ne,f\n';
    await refused(
      "h.csv",
      several,
      /2 of 4 rows cannot be used.*\n {2}row 3 has 3 cells.*\n {2}row 4 opens a quote/,
    );
    const { rows, bad } = await readTable(await file("i.csv", several), { skipBadRows: true });
    expect(rows.map(({ values }) => ({ ...values }))).toEqual([
      { text: "a", label: "b" },
      { text: "e", label: "f" },
    ]);
    expect(bad.map(({ number }) => number)).toEqual([3, 4]);
    await refused("open.csv", '"text,label\na,b\n', "row 1 opens a quote that is never closed");
  });

  it("no file of quotes alone, in bounded time", async () => {
    const started = performance.now();
    await refused("quotes.csv", `text,label\n${'"a,""""\n""",b\n'.repeat(100_000)}"`, "never closed");
    expect(performance.now() - started).toBeLessThan(5000);
  });
  it("too many or too few cells", async () => {
    await refused(
      "j.csv",
      "text,label\na,b\nc,d,e\n",
      /row 3 has 3 cells, but there are 2 columns \(text, label\)/,
    );
    await refused("k.tsv", "text\tlabel\na\n", /row 2 has 1 cells/);
  });
  it("all bad rows at once, with their count; or they are left out and counted", async () => {
    const lines = ["text,label", ..."abcdefgh".split("").map((x, row) => (row % 4 === 3 ? `${x},y` : x))];
    const csv = await file("bad.csv", lines.join("\n"));
    await expect(readTable(csv)).rejects.toThrow(
      /6 of 8 rows cannot be used \(--skip-bad-rows leaves them out\):\n {2}row 2 has 1 cells.*\n {2}row 3 .*\n {2}row 4 .*\n {2}row 6 .*\n {2}row 7 .*\n {2}and 1 more/,
    );
    const kept = await readTable(csv, { skipBadRows: true });
    expect(kept.rows.map(({ number }) => number)).toEqual([5, 9]);
    expect(kept.bad.map(({ number }) => number)).toEqual([2, 3, 4, 6, 7, 8]);
    const json = await file("bad.jsonl", '{"text": "a", "label": 1}\n{\n7\n{"text": ["b"], "label": 2}\n');
    await expect(readTable(json)).rejects.toThrow("2 of 4 rows cannot be used");
    const messages: string[] = [];
    const options = { task: "classify", skipUnlabelled: false, skipBadRows: true } as const;
    const examples = await readExamples(json, options, { onMessage: (message) => messages.push(message) });
    expect(examples.map(({ row }) => row)).toEqual([1]);
    expect(messages).toContainEqual(
      expect.stringContaining("left out 3 rows that cannot be used (rows 2, 3, 4)"),
    );
  });
  it("no label column, with the names of those that there are", async () => {
    const csv = await file("toxic.csv", "comment,toxic\nnice,0\nbad,1\n");
    const options = { task: "classify", skipUnlabelled: false, skipBadRows: false } as const;
    await expect(readExamples(csv, options)).rejects.toThrow(
      "has no label column; it has comment, toxic. Name it with --label-column",
    );
    const examples = await readExamples(csv, { ...options, labelColumn: "toxic" });
    expect(examples.map(({ text, label }) => [text, label])).toEqual([
      ["nice", "0"],
      ["bad", "1"],
    ]);
  });
  it("UTF-16 without its mark", async () => {
    const utf16 = new Uint8Array(Buffer.from("text,label\na,x\n", "utf16le"));
    const place = await file("nul.csv", utf16);
    await expect(readTable(place)).rejects.toThrow("--encoding utf-16le");
    expect((await readTable(place, { encoding: "utf-16le" })).rows).toHaveLength(1);
  });
  it("Parquet of any bytes, without harm to the process", async () => {
    const whole = readFileSync(new URL("../reference/values/rows.parquet", import.meta.url));
    const random = new Random(1);
    let refusedCount = 0;
    for (let trial = 0; trial < 40; trial++) {
      const bytes = Uint8Array.from(whole);
      for (let k = 0; k < 4; k++) bytes[4 + random.integer(bytes.length - 12)] = random.integer(256);
      const place = await file("broken.parquet", bytes);
      await readTable(place).catch((error: unknown) => {
        expect(error).toBeInstanceOf(LineageError);
        refusedCount++;
      });
    }
    expect(refusedCount).toBeGreaterThan(10);
    expect(process.memoryUsage().rss).toBeLessThan(1.5e9);
  }, 60_000);
  it("broken JSON", async () => {
    await refused("l.jsonl", '{"text": "a"}\n{"text": \n', /row 2 is not JSON/);
    await refused("m.jsonl", '{"text": "a"}\n7\n', "row 2 is not an object");
  });
  it("no rows, another kind of file, no file", async () => {
    await refused("n.csv", "\n", "is empty: there is no row in it");
    await refused("o.docx", "x", "a file of this ending cannot be read as a table");
    await refused("p.parquet", "not parquet at all", "cannot be read as Parquet");
    await expect(readTable(path.join(folder, "nowhere.csv"))).rejects.toThrow("there is no such file");
  });
});
