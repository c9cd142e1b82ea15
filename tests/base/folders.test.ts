import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { writeAtomically } from "../../src/base/files.js";
import { replaceFiles, settleFolder } from "../../src/base/folders.js";

let parent: string;
let folder: string;
let child: string;
const names = ["config.json", "one.bin", "two.bin", "deeper/three.bin", "tokenizer.json"];
const module = new URL("../../dist/src/base/folders.js", import.meta.url).href;

beforeAll(() => {
  parent = mkdtempSync(path.join(os.tmpdir(), "lineage-"));
  child = path.join(parent, "child.mjs");
  // Replaces the folder again and again, with another letter each time.
  writeFileSync(
    child,
    `import { replaceFiles } from ${JSON.stringify(module)};
    import { mkdirSync, writeFileSync } from "node:fs";
    const [folder, letters, size, rounds] = process.argv.slice(2);
    for (let round = 0; round < Number(rounds); round++) {
      const letter = letters[round % letters.length];
      await replaceFiles(folder, (staging) => {
        mkdirSync(staging + "/deeper");
        for (const name of ${JSON.stringify(names)}) writeFileSync(staging + "/" + name, letter.repeat(Number(size)));
        writeFileSync(staging + "/only-" + letter, letter);
      }, { part: (name) => name.startsWith("only-") });
      process.stdout.write(letter);
    }`,
  );
});
afterAll(() => {
  rmSync(parent, { recursive: true });
});

let made = 0;
const fill = async (letter: string, size = 10) => {
  await replaceFiles(
    folder,
    (staging) => {
      mkdirSync(path.join(staging, "deeper"));
      for (const name of names) writeFileSync(path.join(staging, name), letter.repeat(size));
      writeFileSync(path.join(staging, `only-${letter}`), letter);
    },
    { part: (name) => name.startsWith("only-") },
  );
};
/** The letter of which all files are, and what else is in the folder. */
const state = () => {
  const all = (readdirSync(folder, { recursive: true }) as string[]).sort();
  const letters = new Set(
    names.map((name) => [...new Set(readFileSync(path.join(folder, name), "utf8"))].join()),
  );
  return { letters: [...letters], others: all.filter((name) => !names.includes(name) && name !== "deeper") };
};
beforeEach(() => {
  folder = path.join(parent, String(++made));
});

describe("files that are replaced as a whole", () => {
  it("take the places of those before, and of no other file", async () => {
    await fill("a");
    writeFileSync(path.join(folder, "README.md"), "mine");
    writeFileSync(path.join(folder, "deeper", "notes.txt"), "mine, too");
    await fill("b");
    expect(state()).toEqual({ letters: ["b"], others: ["README.md", "deeper/notes.txt", "only-b"] });
  });

  it("leave those before alone where one cannot be written", async () => {
    await fill("a");
    const failing = replaceFiles(folder, (staging) => {
      writeFileSync(path.join(staging, "config.json"), "b");
      throw new Error("broke off");
    });
    await expect(failing).rejects.toThrow(/cannot write into .*: broke off/);
    expect(state()).toEqual({ letters: ["a"], others: ["only-a"] });
    // A folder in the place of a file is found out before anything moves.
    rmSync(path.join(folder, "two.bin"));
    mkdirSync(path.join(folder, "two.bin"));
    await expect(fill("b")).rejects.toThrow(/two\.bin: it is a folder/);
    rmSync(path.join(folder, "two.bin"), { recursive: true });
    writeFileSync(path.join(folder, "two.bin"), "a");
    expect(state()).toEqual({ letters: ["a"], others: ["only-a"] });
  });

  it("are of one kind after every kill, and what was left is cleaned up", async () => {
    await fill("a", 300_000);
    const seen = new Set<string>();
    let replacements = 0;
    for (let round = 0; round < 25; round++) {
      const running = spawn(process.execPath, [child, folder, round % 2 ? "bc" : "de", "300000", "1000"]);
      const after = (round * 7) % 40;
      await new Promise<void>((resolve) => {
        running.on("exit", () => {
          resolve();
        });
        // So many replacements from the first on, and a moment that differs from round to round.
        running.stdout.once("data", () => setTimeout(() => running.kill("SIGKILL"), after));
        running.stdout.on("data", (text: Buffer) => (replacements += text.length));
      });
      await settleFolder(folder);
      const { letters } = state();
      expect(letters).toHaveLength(1);
      expect(letters[0]).toMatch(/^[a-e]$/);
      seen.add(letters[0]!);
      const [only] = readdirSync(folder).filter((name) => name.startsWith("only-"));
      expect(only).toBe(`only-${letters[0]}`);
    }
    expect(replacements).toBeGreaterThanOrEqual(25);
    expect(seen.size).toBeGreaterThan(1);
    await fill("z");
    // A lock that was cut off before it said whose it is may be another process's for a minute.
    const nobodys = (name: string) =>
      /\.lock\.[0-9a-f-]{36}$/.test(name) && readFileSync(path.join(folder, name), "utf8") === "";
    const { letters, others } = state();
    expect(letters).toEqual(["z"]);
    expect(others.filter((name) => !nobodys(name))).toEqual(["only-z"]);
  });

  it("come to the end of their moves, wherever those were cut off", async () => {
    for (let done = 0; done <= names.length; done++) {
      folder = path.join(parent, `cut-${done}`);
      await fill("a");
      const staging = ".lineage-staged.new";
      mkdirSync(path.join(folder, staging, "deeper"), { recursive: true });
      names.forEach((name, index) => {
        writeFileSync(path.join(folder, ...(index < done ? [] : [staging]), name), "b");
      });
      writeFileSync(
        path.join(folder, ".lineage-replacing.json"),
        JSON.stringify({ staging, moved: names, removed: ["only-a"] }),
      );
      await settleFolder(folder);
      expect(state()).toEqual({ letters: ["b"], others: [] });
    }
  });

  it("stay as they were where the disk is full", async () => {
    await fill("a", 1000);
    const limited = spawnSync("bash", [
      "-c",
      `ulimit -f 40; exec "$0" "$@"`,
      ...[process.execPath, child, folder, "b", "100000", "1"],
    ]);
    expect(limited.status).not.toBe(0);
    expect(String(limited.stderr)).toContain("the file would be larger than the system allows");
    expect(state()).toEqual({ letters: ["a"], others: ["only-a"] });
  });

  it("are of one process each where two replace them at once", async () => {
    await fill("a");
    const running = ["bc", "de"].map((letters) =>
      spawn(process.execPath, [child, folder, letters, "1000", "60"], {
        stdio: ["ignore", "ignore", "inherit"],
      }),
    );
    const ends = running.map((one) => new Promise((resolve) => one.on("exit", resolve)));
    expect(await Promise.all(ends)).toEqual([0, 0]);
    const { letters, others } = state();
    expect(letters).toHaveLength(1);
    expect(others).toEqual([`only-${letters[0]}`]);
  });

  it("are of the last call where one process replaces them many times at once", async () => {
    await Promise.all([..."abcdefgh"].map((letter) => fill(letter)));
    expect(state()).toEqual({ letters: ["h"], others: ["only-h"] });
  });

  it("do not move by a record that leads out of the folder", async () => {
    await fill("a");
    const record = path.join(folder, ".lineage-replacing.json");
    for (const hostile of [
      { staging: ".lineage-x.new", moved: ["../../outside"], removed: [] },
      { staging: ".lineage-x.new", moved: [], removed: ["/etc/passwd"] },
      { staging: "../other", moved: [], removed: [] },
      "nothing",
    ]) {
      writeFileSync(record, JSON.stringify(hostile));
      await expect(settleFolder(folder)).rejects.toThrow("not a record that lineage wrote");
    }
  });

  it("need a place where files may be written", async () => {
    writeFileSync(path.join(parent, "file"), "");
    await expect(replaceFiles(path.join(parent, "file", "x"), () => undefined)).rejects.toThrow(
      /cannot write into .*: a part of the path is not a folder/,
    );
  });
});

it("many writes of one file at once leave one of them, whole", async () => {
  mkdirSync(folder);
  const file = path.join(folder, "file");
  await Promise.all([..."abcdefgh"].map((letter) => writeAtomically(file, [letter.repeat(50_000)])));
  expect(readFileSync(file, "utf8")).toMatch(/^(.)\1{49999}$/);
  expect(readdirSync(folder)).toEqual(["file"]);
});
