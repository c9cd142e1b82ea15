/** Index of the largest value, the first of equals. */
export function indexOfLargest(values: ArrayLike<number>): number {
  let best = 0;
  for (let index = 1; index < values.length; index++) if (values[index]! > values[best]!) best = index;
  return best;
}

/** A whole number for a person: `12,000`. */
export const count = (value: number): string => value.toLocaleString("en-US");
