import { readFileSync } from "node:fs";

/** What a Linux kernel says of its processors; undefined elsewhere. */
function cpuInfo(): string | undefined {
  return process.platform === "linux" ? readFileSync("/proc/cpuinfo", "utf8") : undefined;
}

/**
 * Whether the processor has instructions for sums of products of 8-bit whole numbers (VNNI on x64, which AMX comes with; the
 * dot products that 64-bit ARM has had since 2017), without which such products take several instructions each; undefined
 * where the system does not tell.
 */
export function multipliesBytes(arch: string = process.arch, info = cpuInfo()): boolean | undefined {
  const features = info === undefined ? undefined : /^(?:flags|Features)\s*:(.*)$/m.exec(info)?.[1];
  if (features === undefined) return undefined;
  const has = (name: string): boolean => features.split(/\s+/).includes(name);
  if (arch === "x64") return has("avx512_vnni") || has("avx_vnni");
  if (arch === "arm64") return has("asimddp");
  return undefined;
}
