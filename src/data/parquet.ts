import { spawn } from "node:child_process";
import { stat } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { FormatError } from "../base/errors.js";
import { storageError } from "../base/files.js";
import { availableMemory, formatBytes } from "../base/memory.js";
import { resolvePackage } from "../base/packages.js";

/** Bytes that one page may have when it is unpacked. */
const largestPage = 2 ** 29;

/**
 * The process that reads the file. A malformed file makes the package reject promises that nobody awaits, or ask for arrays
 * of any length, which no thread survives: here both end this process alone.
 */
const readerSource = `
process.once("message", async ({ file, hyparquet, compressors, largestPage }) => {
  const send = (answer) => process.send(answer, () => process.exit(0));
  try {
    const [{ asyncBufferFromFile, parquetReadObjects }, packed] = await Promise.all([import(hyparquet), import(compressors)]);
    const bounded = Object.fromEntries(Object.entries(packed.compressors).map(([codec, unpack]) => [codec, (input, length) => {
      if (!(length >= 0 && length <= largestPage)) throw new Error("a page of " + length + " bytes is too large");
      return unpack(input, length);
    }]));
    send({ rows: await parquetReadObjects({ file: await asyncBufferFromFile(file), compressors: bounded }) });
  } catch (error) {
    send({ reason: String(error && error.message || error), code: error && error.code });
  }
});
process.once("disconnect", () => process.exit(0));
`;

type Answer =
  { readonly rows: Record<string, unknown>[] } | { readonly reason: string; readonly code?: string };

/**
 * The rows of a Parquet file. Throws FormatError for a file that is malformed, or that takes far more memory than its size
 * lets one expect.
 */
export async function readParquetRows(file: string): Promise<Record<string, unknown>[]> {
  const size = await stat(file).then(
    (found) => found.size,
    (error: unknown) => {
      throw storageError("read", file, error);
    },
  );
  const address = (name: string) => pathToFileURL(resolvePackage(name, "reading Parquet")).href;
  const memory = Math.min(Math.max(2 ** 28, size * 64), Math.max(2 ** 28, availableMemory()));
  const reader = spawn(
    process.execPath,
    [`--max-old-space-size=${Math.ceil(memory / 2 ** 20)}`, "-e", readerSource],
    { stdio: ["ignore", "ignore", "ignore", "ipc"], serialization: "advanced" },
  );
  const answer = await new Promise<Answer>((resolve) => {
    reader.on("message", (message: Answer) => {
      resolve(message);
    });
    reader.on("error", (error) => {
      resolve({ reason: error.message });
    });
    reader.on("close", (code, signal) => {
      resolve({
        reason:
          signal === null
            ? `its reader ended with code ${code}`
            : `its ${formatBytes(size)} take more than ${formatBytes(memory)} of memory`,
      });
    });
    reader.send({
      file,
      hyparquet: address("hyparquet"),
      compressors: address("hyparquet-compressors"),
      largestPage,
    });
  });
  reader.kill();
  if ("rows" in answer) return answer.rows;
  if (answer.code !== undefined && /^E[A-Z]+$/.test(answer.code))
    throw storageError("read", file, Object.assign(new Error(answer.reason), { code: answer.code }));
  throw new FormatError(file, `this cannot be read as Parquet: ${answer.reason.slice(0, 300)}`);
}
