/** What hiding words has to know of a vocabulary. */
export interface MaskingVocabulary {
  /** Number of ids. */
  readonly size: number;
  /** Id of the token that stands in the place of a hidden one. */
  readonly maskId: number;
  /** Ids that are never hidden and never put in the place of a hidden token: separators, padding, the mask itself. */
  readonly specialIds: ReadonlySet<number>;
  /** Whether a token begins a word. Default: every token does. */
  readonly startsWord?: (id: number) => boolean;
}

/** What rows of one or two sentences need besides. */
export interface SentenceVocabulary extends MaskingVocabulary {
  /** Opens a row: `[CLS]`, `<s>`. */
  readonly classId: number;
  /** Closes a sentence: `[SEP]`, `</s>`. */
  readonly separatorId: number;
  readonly paddingId: number;
}
