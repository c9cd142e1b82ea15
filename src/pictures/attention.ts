import { encodePng } from "./bitmap.js";
import { quiet, rule, svgPicture, svgText, textWidth, visible } from "./svg.js";

/** Maps of some layers, all of as many heads. */
export interface HeadMaps {
  /** What they are of, where a picture has several. */
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly maps: readonly {
    readonly layer: number;
    readonly heads: number;
    readonly weights: Float32Array;
  }[];
}

const [low, high] = [
  [248, 250, 252],
  [3, 64, 112],
] as const;
const shades = 64;
const palette = Uint8Array.from({ length: 3 * shades }, (_, place) => {
  const [share, channel] = [Math.floor(place / 3) / (shades - 1), place % 3];
  return Math.round(low[channel]! + share * (high[channel]! - low[channel]!));
});

/** Pixels of a map at least, for a picture that is looked at from near. */
const [smallest, largest] = [28, 84];
const widest = 1180;
/** Columns and rows of a map that are told apart: more would be finer than the pixels of the picture. */
const finest = 256;

/**
 * All heads of all layers at a glance, as SVG: layers down, heads across; in each, from every token down to every token
 * across. The darker, the larger the square root of the weight.
 */
export function attentionPicture(
  title: string,
  notes: readonly string[],
  groups: readonly HeadMaps[],
): string {
  const most = Math.max(1, ...groups.flatMap(({ maps }) => maps.map(({ heads }) => heads)));
  const size = Math.max(smallest, Math.min(largest, Math.floor((widest - 96) / most) - 6));
  const left = 80;
  const width = Math.max(left + most * (size + 6) + 16, 420);
  const parts = [svgText(visible(title), 16, 20, { size: 14, bold: true, room: width - 32 })];
  let y = 42;
  for (const note of notes) {
    for (const line of wrapped(note, width - 32)) {
      parts.push(svgText(line, 16, y, { fill: quiet, room: width - 32 }));
      y += 17;
    }
  }
  for (const { name, rows, columns, maps } of groups) {
    if (groups.length > 1) {
      y += 8;
      parts.push(svgText(name, 16, y, { bold: true, room: width - 32 }));
      y += 18;
    }
    const heads = maps[0]?.heads ?? 0;
    const every = Math.ceil(textWidth(String(heads), 12) / (size + 2));
    for (let head = 0; head < heads; head += every)
      parts.push(
        svgText(size < 64 ? String(head) : `head ${head}`, left + head * (size + 6) + size / 2, y + 4, {
          anchor: "middle",
          fill: quiet,
        }),
      );
    if (size < 64) parts.push(svgText("head", left - 8, y + 4, { anchor: "end", fill: quiet }));
    y += 16;
    for (const { layer, weights } of maps) {
      parts.push(svgText(`layer ${layer}`, left - 8, y + size / 2, { anchor: "end", fill: quiet, room: 72 }));
      for (let head = 0; head < heads; head++) {
        const [x, image] = [left + head * (size + 6), mapImage(weights, head, rows, columns)];
        parts.push(
          `<image x="${x}" y="${y}" width="${size}" height="${size}" preserveAspectRatio="none" image-rendering="optimizeSpeed" href="data:image/png;base64,${image}"/>`,
          `<rect x="${x}" y="${y}" width="${size}" height="${size}" fill="none" stroke="${rule}"/>`,
        );
      }
      y += size + 6;
    }
  }
  return svgPicture(width, y + 8, parts);
}

/** One head's map as PNG in base64, one pixel for each weight; of long texts the largest of neighbours. */
function mapImage(weights: Float32Array, head: number, rows: number, columns: number): string {
  const [height, width] = [Math.min(rows, finest), Math.min(columns, finest)];
  const pixels = new Uint8Array(height * width);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const weight = weights[(head * rows + row) * columns + column]!;
      const place = Math.floor((row * height) / rows) * width + Math.floor((column * width) / columns);
      const shade = Math.round((shades - 1) * Math.sqrt(Math.min(1, Math.max(0, weight))));
      pixels[place] = Math.max(pixels[place]!, shade);
    }
  return encodePng(pixels, width, height, palette).toString("base64");
}

/** Lines of whole words that are not wider than `room`. */
function wrapped(text: string, room: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    const longer = line === "" ? word : `${line} ${word}`;
    if (line !== "" && textWidth(longer, 12) > room) {
      lines.push(line);
      line = word;
    } else line = longer;
  }
  return [...lines, line];
}
