import { existsSync } from "node:fs";
import path from "node:path";
import { crc32 } from "node:zlib";
import { z } from "zod";
import { readJson, writeJson } from "../base/files.js";

const kept = z.object({ rows: z.string(), logProbs: z.array(z.number()) });

/** Numbers of rows that were computed once and lie in the run's folder; computed again where the rows are others. */
export async function keptReference(
  out: string,
  rows: unknown,
  compute: () => Promise<number[]>,
): Promise<number[]> {
  const file = path.join(out, "reference.json");
  const sum = crc32(JSON.stringify(rows)).toString(16);
  if (existsSync(file)) {
    const found = kept.safeParse(await readJson(file));
    if (found.success && found.data.rows === sum) return found.data.logProbs;
  }
  const logProbs = await compute();
  await writeJson(file, { rows: sum, logProbs });
  return logProbs;
}
