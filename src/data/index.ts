export * from "./batch.js";
export * from "./blocks.js";
export * from "./buckets.js";
export * from "./conversation.js";
export * from "./conversation-answers.js";
export * from "./conversation-rows.js";
export * from "./conversations.js";
export {
  type Layout as ConversationLayout,
  layoutNames as conversationLayouts,
} from "./conversation-layouts.js";
export * from "./corpus.js";
export * from "./documents.js";
export * from "./example-source.js";
export * from "./examples.js";
export * from "./ghost-attention.js";
export * from "./instruction-mixtures.js";
export * from "./loader.js";
export * from "./marked-documents.js";
export * from "./mixing.js";
export * from "./packing.js";
export * from "./padding.js";
export * from "./pairs.js";
export * from "./pretraining-text.js";
export * from "./self-instruct.js";
export { stories, story } from "./stories/index.js";
export * from "./table.js";
export * from "./text-pairs.js";
export * from "./tokens.js";
