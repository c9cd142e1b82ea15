/** What XML 1.0 has no place for, even escaped. */
const forbidden = /[^\t\n\r\u{20}-\u{D7FF}\u{E000}-\u{FFFD}\u{10000}-\u{10FFFF}]/gu;

/** Text as HTML and SVG may have it, in an element or in a quoted attribute. */
export const escapeMarkup = (text: string): string =>
  text.replace(forbidden, "\uFFFD").replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

/**
 * Text so that each of its characters is seen: what moves a line, turns its direction or is invisible is written as
 * `<U+202E>`. Joiners stay, which belong to the letters and emoji around them.
 */
export const visible = (text: string): string =>
  text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, (character) =>
    /[\u200c\u200d]/.test(character)
      ? character
      : `<U+${character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0")}>`,
  );

/** Widths in ems of wide fonts (DejaVu Sans, Verdana), by the first class that a character is of. */
const widths: readonly (readonly [RegExp, number])[] = [
  [/^[\p{M}\p{Cf}]/u, 0],
  [/^[ijlI.,:;'|!()[\]{}]/, 0.42],
  [/^[ftr /\\-]/, 0.46],
  [/^[mwMW@%]/, 1],
  [/^[\p{Lu}#&+<>=~^_]/u, 0.84],
  [/^[\x20-\x7e\u00a0-\u024f]/, 0.66],
  [/^[\p{Script=Greek}\p{Script=Cyrillic}\p{Script=Hebrew}\p{Script=Arabic}]/u, 0.85],
];

const segmenter = new Intl.Segmenter();
const characters = (text: string): string[] => [...segmenter.segment(text)].map(({ segment }) => segment);

const widthOf = (character: string): number =>
  widths.find(([pattern]) => pattern.test(character))?.[1] ?? 1.15;

/** About as many pixels as a text is wide in a wide font; narrower in most. */
export const textWidth = (text: string, size: number): number =>
  size * characters(text).reduce((sum, character) => sum + widthOf(character), 0);

/** A text, or its beginning with "…", that is not wider than `room` pixels. */
export function fitText(text: string, size: number, room: number): string {
  if (textWidth(text, size) <= room) return text;
  const kept = characters(text);
  while (kept.length > 1 && textWidth(`${kept.join("")}…`, size) > room) kept.pop();
  return `${kept.join("").trimEnd()}…`;
}

export interface TextOptions {
  readonly size?: number;
  readonly anchor?: "start" | "middle" | "end";
  readonly fill?: string;
  readonly bold?: boolean;
  /** Degrees, clockwise around the place. */
  readonly turn?: number;
  /** Pixels that the text has; what is longer is cut. */
  readonly room?: number;
}

export const textSize = 12;

/** A line of text whose middle is at the height `y`. */
export function svgText(
  text: string,
  x: number,
  y: number,
  { size = textSize, anchor = "start", fill, bold = false, turn, room = Infinity }: TextOptions = {},
): string {
  const fitted = fitText(text, size, room);
  const attributes = [
    turn === undefined
      ? `x="${round(x)}" y="${round(y)}"`
      : `transform="translate(${round(x)} ${round(y)}) rotate(${turn})"`,
    // Not every renderer knows baselines: the middle of a line of Latin letters lies a third of its size below.
    `dy="${round(0.35 * size)}"`,
    ...(size === textSize ? [] : [`font-size="${size}"`]),
    ...(anchor === "start" ? [] : [`text-anchor="${anchor}"`]),
    ...(fill ? [`fill="${fill}"`] : []),
    ...(bold ? [`font-weight="600"`] : []),
  ];
  const whole = fitted === text ? "" : `<title>${escapeMarkup(text)}</title>`;
  return `<text ${attributes.join(" ")}>${whole}${escapeMarkup(fitted)}</text>`;
}

export const round = (value: number): number => Math.round(value * 100) / 100;

export const ink = "#374151";
export const quiet = "#6b7280";
export const rule = "#e5e7eb";

/** A whole picture on white. */
export const svgPicture = (width: number, height: number, parts: readonly string[]): string =>
  [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${round(width)}" height="${round(height)}" viewBox="0 0 ${round(width)} ${round(height)}" font-family="system-ui, sans-serif" font-size="${textSize}" fill="${ink}">`,
    `<rect width="100%" height="100%" fill="white"/>`,
    ...parts,
    `</svg>\n`,
  ].join("\n");
