import { mkdtemp, readFile, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { expect, it } from "vitest";
import { TensorBoardWriter } from "../../src/training/index.js";

/** CRC-32C bit by bit, from its polynomial; masked as TFRecord has it. */
function maskedChecksum(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  crc = (crc ^ 0xffffffff) >>> 0;
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

it("writes records whose lengths and checksums hold, the version first", async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  try {
    const file = path.join(folder, "events");
    const writer = new TensorBoardWriter(file);
    writer.scalars(1, { loss: 2.5 });
    writer.scalars(300, { loss: 1.25, rate: 1e-3 });
    const bytes = await readFile(file);
    const records: Buffer[] = [];
    for (let at = 0; at < bytes.length;) {
      const length = Number(bytes.readBigUInt64LE(at));
      expect(bytes.readUInt32LE(at + 8)).toBe(maskedChecksum(bytes.subarray(at, at + 8)));
      const data = bytes.subarray(at + 12, at + 12 + length);
      expect(bytes.readUInt32LE(at + 12 + length)).toBe(maskedChecksum(data));
      records.push(data);
      at += 16 + length;
    }
    expect(records).toHaveLength(4);
    expect(records[0]!.toString("latin1")).toContain("brain.Event:2");
    expect(records[2]!.readFloatLE(records[2]!.length - 4)).toBe(1.25);
    expect([...records[2]!.subarray(9, 12)]).toEqual([16, 172, 2]);
  } finally {
    await rm(folder, { recursive: true });
  }
});
