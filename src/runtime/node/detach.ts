import v8 from "node:v8";

type Detach = (buffer: ArrayBuffer) => void;

/**
 * Makes an ArrayBuffer and all views of it empty. Node 22 has `transfer` for that; before it, the engine of JavaScript
 * offers the same only under a name that a flag admits, which is set while one function is compiled and no longer.
 */
export const detach: Detach = "transfer" in ArrayBuffer.prototype ? transfer : natively();

function transfer(buffer: ArrayBuffer): void {
  (buffer as ArrayBuffer & { transfer(): ArrayBuffer }).transfer();
}

function natively(): Detach {
  // A function is compiled when it first runs, and again when its code was thrown away for not having run for a while.
  v8.setFlagsFromString("--no-flush-bytecode");
  v8.setFlagsFromString("--allow-natives-syntax");
  try {
    const native = new Function("buffer", "%ArrayBufferDetach(buffer)") as Detach;
    native(new ArrayBuffer(1));
    return native;
  } finally {
    v8.setFlagsFromString("--no-allow-natives-syntax");
  }
}
