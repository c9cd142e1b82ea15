import v8 from "node:v8";

type Detach = (buffer: ArrayBuffer) => void;

/**
 * Makes an ArrayBuffer and all views of it empty. Node 22 has `transfer` for that; before it, the engine of JavaScript
 * offers the same only under a name that a flag admits, which is set for one function and no longer.
 */
export const detach: Detach = "transfer" in ArrayBuffer.prototype ? transfer : natively();

function transfer(buffer: ArrayBuffer): void {
  (buffer as ArrayBuffer & { transfer(): ArrayBuffer }).transfer();
}

function natively(): Detach {
  v8.setFlagsFromString("--allow-natives-syntax");
  try {
    return new Function("buffer", "%ArrayBufferDetach(buffer)") as Detach;
  } finally {
    v8.setFlagsFromString("--no-allow-natives-syntax");
  }
}
