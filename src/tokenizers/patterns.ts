import { messageOf } from "../base/errors.js";
import type { Entries } from "./entries.js";
import { fromOniguruma } from "./oniguruma.js";
import { literal } from "./unicode.js";

/** The entry `pattern` of a part: `{"String": ...}` or `{"Regex": ...}`. */
export function patternOf(part: Entries): RegExp {
  const pattern = part.object("pattern");
  const text = pattern.optionalString("String");
  if (text !== undefined) {
    pattern.finish();
    return new RegExp(literal(text), "gu");
  }
  const source = pattern.string("Regex");
  pattern.finish();
  try {
    return fromOniguruma(source);
  } catch (error) {
    return pattern.refuse(messageOf(error));
  }
}
