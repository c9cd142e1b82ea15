import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

let collect: (() => void) | undefined;

/**
 * Has JavaScript's old objects collected now. What a long run drops step by step would otherwise lie in memory for minutes: the
 * engine collects it when its heap has grown by half, and does not know how much lies outside of it.
 */
export function collectGarbage(): void {
  collect ??= globalThis.gc?.bind(globalThis) ?? exposed();
  collect();
}

/** The collector of a process that was started without `--expose-gc`. */
function exposed(): () => void {
  setFlagsFromString("--expose-gc");
  const found = runInNewContext("gc") as () => void;
  setFlagsFromString("--no-expose-gc");
  return found;
}
