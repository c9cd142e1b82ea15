import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { SafetensorsFile } from "../../src/formats/index.js";

/** One folder of `tests/reference/values`. */
export class Reference {
  constructor(private readonly name: string) {}

  path(file = ""): string {
    return fileURLToPath(new URL(`../reference/values/${this.name}/${file}`, import.meta.url));
  }

  json(file: string): unknown {
    return JSON.parse(readFileSync(this.path(file), "utf8"));
  }

  /** The float32 tensors of a file. */
  async tensors(file: string): Promise<Map<string, Float32Array>> {
    const opened = await SafetensorsFile.open(this.path(file));
    const tensors = new Map<string, Float32Array>();
    for (const [key, { byteLength }] of opened.header.tensors) {
      const bytes = new Uint8Array(byteLength);
      await opened.readInto(key, bytes);
      tensors.set(key, new Float32Array(bytes.buffer));
    }
    return tensors;
  }
}

/** The largest difference relative to the largest reference value. */
export function relativeError(got: ArrayLike<number>, wanted: Float32Array): number {
  let [worst, scale] = [0, 0];
  wanted.forEach((value, index) => {
    worst = Math.max(worst, Math.abs(got[index]! - value));
    scale = Math.max(scale, Math.abs(value));
  });
  return worst / scale;
}
