import { emitWarning } from "../base/warnings.js";
import { GgufFile, ggufStopIds, ggufTokenizer, loadTokenizer, modelForm } from "../formats/index.js";
import { type DecoderCheckpoint } from "./checkpoint.js";
import { readConfig } from "./folder.js";
import { readGenerationConfig } from "./generation-config.js";

/** A model's tokenizer and what ends its texts, without its weights. `place` is a folder or a `.gguf` file. */
export async function loadWords(
  place: string,
): Promise<
  Pick<DecoderCheckpoint, "tokenizer" | "stopIds"> & { readonly contextLength: number | undefined }
> {
  if ((await modelForm(place)) === "gguf") {
    const gguf = await GgufFile.open(place);
    const { metadata } = gguf.header;
    const architecture = String(metadata.get("general.architecture")?.value);
    const context = metadata.get(`${architecture}.context_length`)?.value;
    return {
      tokenizer: ggufTokenizer(gguf),
      stopIds: ggufStopIds(gguf),
      contextLength: typeof context === "number" ? context : undefined,
    };
  }
  const json = await readConfig(place);
  const tokenizer = await loadTokenizer(place);
  for (const warning of tokenizer.warnings) emitWarning(warning);
  const { stopIds } = await readGenerationConfig(place, json);
  const entries = json as Readonly<Record<string, unknown>>;
  const context = entries["max_position_embeddings"] ?? entries["n_positions"];
  return { tokenizer, stopIds, contextLength: typeof context === "number" ? context : undefined };
}
