import { configTable } from "../nn/index.js";
import { defineSystem, publishedSize } from "./system.js";
// The network is that of T5 1.1: what makes mT5 itself is its vocabulary, and how its languages are sampled.
import { checkT5, gatedAndFree, pretrainT5, t5Definition, t5Entries, t5Fields, t5Gguf, t5v11 } from "./t5.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const fields = t5Fields({
  vocabSize: 250_112,
  intermediateSize: 1024,
  numLayers: 8,
  numHeads: 6,
  ...gatedAndFree,
});

/** mT5, Xue et al. 2021, "mT5: A massively multilingual pre-trained text-to-text transformer": T5 1.1 in 101 languages. */
export const mt5Table = configTable({
  type: "mt5",
  title: "mT5",
  fields: {
    ...fields,
    scaleOutputs: {
      ...fields.scaleOutputs,
      // Since version 5 transformers never scales the states of an mT5; before, it did where the embeddings were tied.
      read: (json, earlier) =>
        json["scale_decoder_outputs"] === undefined && parseInt(String(json["transformers_version"])) >= 5
          ? false
          : fields.scaleOutputs.read(json, earlier),
    } satisfies typeof fields.scaleOutputs,
  },
  ...t5Entries,
  check: checkT5,
});

const published = publishedSize(mt5Table);

/** The published sizes, table 1 of the paper. */
export const mt5Sizes = {
  "mt5-small": published(300_176_768, t5v11.small),
  "mt5-base": published(582_401_280, t5v11.base),
  "mt5-large": published(1_229_581_312, t5v11.large),
  "mt5-xl": published(3_742_619_648, t5v11.xl),
  "mt5-xxl": published(12_921_057_280, t5v11.xxl),
} as const;

// ---- Definition ---------------------------------------------------------------------------------------------------

/** mT5 as the rest of the library knows it. */
export const mt5 = defineSystem({
  ...t5Definition,
  className: "MT5ForConditionalGeneration",
  config: mt5Table,
  sizes: mt5Sizes,
  // A GGUF calls both t5; only its own files say that a model is an mT5.
  gguf: {
    ...t5Gguf,
    holds: (file) => file.get("t5.model_type", "string") === "mt5",
    write: (config) => {
      const { metadata, vectors } = t5Gguf.write!(config);
      return { metadata: { ...metadata, model_type: { type: "string", value: "mt5" } }, vectors };
    },
  },
  pretraining: {
    objective: "spans of the text that are hidden, in languages sampled by their share to the power 0.3",
    prepare: (options) =>
      pretrainT5({ table: mt5Table, className: "MT5ForConditionalGeneration" }, options, 0.3),
  },
});
