import { emitWarning } from "../base/warnings.js";
import { GgufFile, ggufStopIds, ggufTokenizer, loadTokenizer, modelForm } from "../formats/index.js";
import type { SystemKind } from "../models/index.js";
import { scaledContext } from "../nn/index.js";
import { type DecoderCheckpoint } from "./checkpoint.js";
import { readConfig } from "./folder.js";
import { readGenerationConfig } from "./generation-config.js";
import { describeModel } from "./load.js";

/** What a model reads and writes, without its weights. */
export interface ModelWords extends Pick<DecoderCheckpoint, "tokenizer" | "stopIds"> {
  readonly kind: SystemKind;
  /** Tokens that it reads at most, with the scaling of its positions. */
  readonly context: number;
}

/** A model's tokenizer, what ends its texts, and how long they may be. `place` is a folder or a `.gguf` file. */
export async function loadWords(place: string): Promise<ModelWords> {
  const { system, config } = await describeModel(place);
  const known = { kind: system.kind, context: scaledContext(config) };
  if ((await modelForm(place)) === "gguf") {
    const gguf = await GgufFile.open(place);
    return { tokenizer: ggufTokenizer(gguf), stopIds: ggufStopIds(gguf), ...known };
  }
  const tokenizer = await loadTokenizer(place);
  for (const warning of tokenizer.warnings) emitWarning(warning);
  const { stopIds } = await readGenerationConfig(place, await readConfig(place));
  return { tokenizer, stopIds, ...known };
}
