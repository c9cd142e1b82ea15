import { formatBytes } from "../base/memory.js";
import { modelPlace, placeHere } from "../library/source.js";
import { interruptible } from "./progress.js";
import { Reporter } from "./terminal.js";

/**
 * The file or folder of a model that a person named, as `modelPlace` finds it; what has to be pulled is pulled with progress
 * on standard error.
 * @param foldersOnly what is to be done with it that a GGUF file does not allow, after "cannot be": "fine-tuned"
 */
export async function modelFor(place: string, foldersOnly?: string): Promise<string> {
  const here = await placeHere(place, { foldersOnly });
  if (here !== undefined) return here;
  const report = await Reporter.create(false);
  report.say(`${place} is not on this machine: pulling it from the hub`);
  try {
    return await interruptible((signal) =>
      modelPlace(place, {
        signal,
        onProgress: (file, done, total) => {
          report.progress(`${file}  ${formatBytes(done)} of ${formatBytes(total)}`, {}, done / total);
        },
      }),
    );
  } finally {
    report.done();
  }
}
