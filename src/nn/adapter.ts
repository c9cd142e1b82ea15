import type { LoraAdapter } from "./lora.js";
import type { SoftPromptAdapter } from "./soft-prompt.js";

/** What learns beside a model that stays as it is. */
export type Adapter = LoraAdapter | SoftPromptAdapter;
