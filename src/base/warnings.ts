/** Where warnings go: one sentence for a person each. */
export type Warn = (sentence: string) => void;

/** Node's own way to warn, for callers who take no warnings themselves. */
export const emitWarning: Warn = (sentence) => {
  process.emitWarning(sentence, "LineageWarning");
};
