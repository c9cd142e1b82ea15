import { LineageError, RuntimeError } from "../base/errors.js";

/** Where in the engine's own source a failure was noticed: for its developers, not for its users. */
const sourcePlace =
  /\/\S+\.(?:cc|h|cpp):\d+ [^\n]*?\)(?: const)?(?: \[with [^\]]*\])?(?:::<lambda\(.*?\)>)? /g;

/**
 * The engine's status as a sentence, with the graph node and the module that wrote it: nodes are called
 * `module.path/operation#7`.
 */
export function engineError(status: number | undefined, message: string, cause?: unknown): LineageError {
  const node = (/Name:\s*'([^']+)'/.exec(message) ??
    /[Nn]ode\s*\(([^)]+)\)/.exec(message) ??
    /node (?:with )?name:? ?'?([^\s'",]+)/i.exec(message))?.[1];
  const slash = node?.lastIndexOf("/") ?? -1;
  const modulePath = slash > 0 ? node!.slice(0, slash) : undefined;
  const reason = message
    .slice(message.indexOf("Status Message: ") < 0 ? 0 : message.indexOf("Status Message: ") + 16)
    .replaceAll(sourcePlace, "")
    .replaceAll(/\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : /g, "")
    .trim();
  const where = [modulePath && `in module ${modulePath}`, node && `at node ${node}`]
    .filter(Boolean)
    .join(", ");
  if (/bad_alloc|Failed to allocate memory|BFCArena/.test(message)) {
    return new LineageError("memory", `the engine ran out of memory${where && ` ${where}`}: ${reason}`);
  }
  return new RuntimeError(
    `the engine failed${where && ` ${where}`}: ${reason}`,
    { status, node, modulePath },
    { cause },
  );
}
