// Classes of characters as the reference has them; what JavaScript calls `\s`, `\w` and `.` are others.

/** Unicode's White_Space, within a class. */
export const whiteSpace = "\\t-\\r \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
/** Letters, marks, digits and connectors, within a class: Oniguruma's `\w`. */
export const wordCharacter = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
/** The same outside of a class, where Oniguruma takes superscripts and fractions of Latin-1 for words too. */
export const loneWordCharacter = `${wordCharacter}\\u00b2\\u00b3\\u00b9\\u00bc-\\u00be`;
/** The `\w` of Rust's own regular expressions, which has joiners too. */
export const rustWordCharacter = `${wordCharacter}\\p{Join_Control}`;
/** Unicode's punctuation and all of ASCII's, within a class. */
export const punctuation = "\\p{P}!-/:-@\\[-`\\{-~";

/** A pattern for a text as it is written. */
export const literal = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
