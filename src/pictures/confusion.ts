import {
  escapeMarkup,
  quiet,
  round,
  rule,
  svgPicture,
  svgText,
  textSize,
  textWidth,
  visible,
} from "./svg.js";

/** What a picture of a confusion matrix is drawn from. */
export interface ConfusionCounts {
  readonly classes: readonly string[];
  /** Row by row of the truth. */
  readonly counts: readonly Uint32Array[];
}

/** Pixels that a class's name has; what is longer is cut. */
const longest = 170;
const gap = 8;

/** A confusion matrix as an SVG picture: truth down, prediction across, the darker the larger the share of the truth. */
export function confusionPicture(title: string, { classes, counts }: ConfusionCounts): string {
  const names = classes.map(visible);
  const room = Math.min(longest, Math.max(0, ...names.map((name) => textWidth(name, textSize))));
  // A line of text needs its height, and a short number its width.
  const cell = Math.max(18, Math.min(64, Math.floor(560 / Math.max(1, classes.length))));
  const [left, top] = [16 + 24 + room + gap, 62 + 22 + room + gap];
  const size = cell * classes.length;
  const width = Math.max(left + size + 16, 440);
  const cells = counts.flatMap((row, truth) => {
    const total = row.reduce((a, b) => a + b, 0) || 1;
    return Array.from(row, (count, prediction) => {
      const share = count / total;
      const [x, y] = [left + prediction * cell, top + truth * cell];
      const fill = truth === prediction ? "21, 128, 61" : "194, 65, 12";
      const label = labelOf(count, cell);
      const said = `${names[truth]}, taken for ${names[prediction]}: ${count}`;
      return (
        `<rect x="${round(x)}" y="${round(y)}" width="${cell}" height="${cell}" fill="rgba(${fill}, ${share.toFixed(3)})" stroke="${rule}"><title>${escapeMarkup(said)}</title></rect>` +
        (label
          ? svgText(label.text, x + cell / 2, y + cell / 2, {
              size: label.size,
              anchor: "middle",
              fill: share > 0.55 ? "white" : "#374151",
            })
          : "")
      );
    });
  });
  const labels = names.flatMap((name, place) => {
    const centre = place * cell + cell / 2;
    return [
      svgText(name, left - gap, top + centre, { anchor: "end", room }),
      svgText(name, left + centre, top - gap, { turn: -90, room }),
    ];
  });
  return svgPicture(width, top + size + 16, [
    svgText(visible(title), 16, 20, { size: 14, bold: true, room: width - 32 }),
    svgText("Green is right, orange wrong; the darker, the more of the row.", 16, 42, {
      fill: quiet,
      room: width - 32,
    }),
    svgText("prediction", left + size / 2, 68, { anchor: "middle", fill: quiet, room: Math.max(size, 90) }),
    svgText("truth", 24, top + size / 2, {
      anchor: "middle",
      fill: quiet,
      turn: -90,
      room: Math.max(size, 60),
    }),
    ...cells,
    ...labels,
  ]);
}

/** A count that fits into its cell: as it is, smaller, or in thousands; undefined where nothing fits. */
function labelOf(count: number, cell: number): { readonly text: string; readonly size: number } | undefined {
  const short = count < 1000 ? [] : [`${Number((count / 1000).toPrecision(2))}k`];
  for (const text of [String(count), ...short])
    for (const size of [textSize, 10, 8]) if (textWidth(text, size) <= cell - 4) return { text, size };
  return undefined;
}
