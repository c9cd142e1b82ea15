import { writeAtomically } from "../base/files.js";

/** Writes rows of equal length as NumPy's `.npy` reads them: float32 `[rows, columns]`. */
export async function writeNpy(file: string, rows: readonly Float32Array[], columns: number): Promise<void> {
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${rows.length}, ${columns}), }`;
  // Magic, version and length take 10 bytes; the data starts at a multiple of 64, after a line feed.
  const padded = `${header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11)}\n`;
  const head = Buffer.alloc(10);
  head.write("\x93NUMPY\x01\x00", "latin1");
  head.writeUInt16LE(padded.length, 8);
  const bytes = rows.map((row) => new Uint8Array(row.buffer, row.byteOffset, row.byteLength));
  await writeAtomically(file, [head, padded, ...bytes]);
}
