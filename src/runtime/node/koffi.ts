import type koffiTypes from "koffi";
import { LineageError, messageOf } from "../../base/errors.js";
import { requireHere } from "../../base/packages.js";

type Koffi = typeof koffiTypes;

/**
 * Bytes of stack for a call on another thread, of which only what is used takes memory: what the engine's own threads have.
 * Koffi's 128 kB are too few for a run on CUDA: one function of cuDNN takes half of them.
 */
const stackSize = 8 * 2 ** 20;

/**
 * Koffi's library for this platform, which is the whole of koffi. The package `koffi` around it would only add an install
 * script that compiles it where no library is published, and there the engine has none either.
 */
function load(): Koffi {
  const name = `@koromix/koffi-${process.platform}-${process.arch}`;
  try {
    const koffi = requireHere(name) as Koffi;
    const known = koffi.config() as { async_stack_size: number };
    if (known.async_stack_size < stackSize) koffi.config({ async_stack_size: stackSize });
    return koffi;
  } catch (error) {
    throw new LineageError(
      "unsupported",
      `the engine is called through ${name}, which cannot be loaded: ${messageOf(error).split("\n")[0]}; ` +
        "it is installed with lineage, unless npm is told --omit=optional; where this code is bundled, install lineage beside the bundle",
      { cause: error },
    );
  }
}

export default load();
