import { copyFileSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { GgufFile, type GgufValue, ggufFormat, placeOf, writeGguf } from "../../../src/formats/index.js";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "lineage-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const partOf = (number: number, count: number, name = "model") =>
  path.join(folder, `${name}-0000${number}-of-0000${count}.gguf`);

async function writePart(
  file: string,
  number: number,
  tensors: Readonly<Record<string, readonly number[]>>,
  more: Readonly<Record<string, GgufValue>> = {},
): Promise<void> {
  const metadata = new Map<string, GgufValue>(
    Object.entries({
      "split.no": { type: "uint16", value: number },
      "split.count": { type: "uint16", value: 3 },
      "split.tensors.count": { type: "int32", value: 4 },
      ...more,
    }),
  );
  await writeGguf(
    file,
    metadata,
    Object.entries(tensors).map(([name, values]) => ({
      name,
      format: ggufFormat("F32"),
      shape: [values.length],
      values: () => Float32Array.from(values),
    })),
  );
}

it("a GGUF in parts is read by any of them, with the first one's entries and the tensors of all", async () => {
  await writePart(partOf(1, 3), 0, { a: [1, 2] }, { "general.name": { type: "string", value: "whole" } });
  await writePart(partOf(2, 3), 1, { b: [3], c: [4, 5, 6] });
  await writePart(partOf(3, 3), 2, { d: [7] });
  for (const number of [1, 2, 3]) {
    const gguf = await GgufFile.open(partOf(number, 3));
    expect(gguf.get("general.name", "string")).toBe("whole");
    expect([...gguf.tensors.keys()]).toEqual(["a", "b", "c", "d"]);
    expect([...(await gguf.readValues("c"))]).toEqual([4, 5, 6]);
    expect([...(await gguf.readValues("a"))]).toEqual([1, 2]);
    expect(gguf.tensor("d").file).toBe(partOf(3, 3));
  }
});

it("parts that are missing, renamed or of another model are refused by name", async () => {
  renameSync(partOf(2, 3), path.join(folder, "away"));
  await expect(GgufFile.open(partOf(1, 3))).rejects.toThrow(/cannot read .*-00002-of-00003\.gguf/);
  await writePart(partOf(2, 3), 1, { b: [3] });
  await expect(GgufFile.open(partOf(1, 3))).rejects.toThrow("hold 3 tensors, but should hold 4");
  await writePart(partOf(2, 3), 1, { a: [3], c: [4] });
  await expect(GgufFile.open(partOf(1, 3))).rejects.toThrow(/00002.*the tensor a is in another part/);
  await writePart(partOf(2, 3), 2, { b: [3], c: [4] });
  await expect(GgufFile.open(partOf(1, 3))).rejects.toThrow("it is not part 2 of 3");
  copyFileSync(partOf(1, 3), path.join(folder, "single.gguf"));
  await expect(GgufFile.open(path.join(folder, "single.gguf"))).rejects.toThrow(
    /is part 1 of a model in 3 files; they must be named/,
  );
});

it("a path is told by what is there", async () => {
  copyFileSync(partOf(1, 3), path.join(folder, "sha256-0f3c"));
  expect(await placeOf(path.join(folder, "sha256-0f3c"))).toBe("gguf");
  expect(await placeOf(folder)).toBe("folder");
  expect(await placeOf(path.join(folder, "nothing.gguf"))).toBe("missing");
  expect(await placeOf("org/a-model")).toBe("name");
  await expect(placeOf("/dev/null")).rejects.toThrow("it is a device, not a file");
});
