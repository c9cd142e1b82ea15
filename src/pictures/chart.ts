import { extent } from "d3-array";
import { scaleLinear } from "d3-scale";
import { line } from "d3-shape";

export interface Curve {
  readonly label: string;
  readonly points: readonly { readonly step: number; readonly loss: number }[];
}

const colours = ["#7aa2d6", "#c2410c", "#15803d", "#7e22ce"];
const size = { width: 640, height: 360, left: 52, right: 16, top: 34, bottom: 40 };

const escape = (text: string): string =>
  text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);

/** Loss over steps, or over what `axis` names, as an SVG picture. Points that are not finite are left out. */
export function lossChart(title: string, curves: readonly Curve[], axis = "step"): string {
  const finite = curves.map(({ label, points }) => ({
    label,
    points: points.filter(({ loss }) => Number.isFinite(loss)),
  }));
  const all = finite.flatMap(({ points }) => points);
  const [firstStep = 0, lastStep = 1] = extent(all, ({ step }) => step);
  const [lowest = 0, highest = 1] = extent(all, ({ loss }) => loss);
  const x = scaleLinear([firstStep, lastStep], [size.left, size.width - size.right]);
  const y = scaleLinear([lowest, highest], [size.height - size.bottom, size.top]).nice();
  const path = line<{ step: number; loss: number }>(
    ({ step }) => x(step),
    ({ loss }) => y(loss),
  );
  const grid = y.ticks(6).map((tick) => {
    const at = y(tick).toFixed(1);
    return `<line x1="${size.left}" x2="${size.width - size.right}" y1="${at}" y2="${at}" stroke="#e5e7eb"/><text x="${size.left - 6}" y="${at}" text-anchor="end" dominant-baseline="middle">${tick}</text>`;
  });
  const steps = x
    .ticks(6)
    .map(
      (tick) =>
        `<text x="${x(tick).toFixed(1)}" y="${size.height - size.bottom + 18}" text-anchor="middle">${tick}</text>`,
    );
  const drawn = finite.map(({ label, points }, index) => {
    const colour = colours[index % colours.length]!;
    const key = `<text x="${size.width - size.right - 4}" y="${size.top + 14 + 16 * index}" text-anchor="end" fill="${colour}">${escape(label)}</text>`;
    return `<path d="${path([...points]) ?? ""}" fill="none" stroke="${colour}" stroke-width="${index === 0 ? 1.2 : 2}"/>${key}`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${size.width} ${size.height}" font-family="system-ui, sans-serif" font-size="12" fill="#374151">`,
    `<rect width="100%" height="100%" fill="white"/>`,
    `<text x="${size.left}" y="20" font-size="14" font-weight="600">${escape(title)}</text>`,
    ...grid,
    ...steps,
    `<text x="${size.width / 2}" y="${size.height - 6}" text-anchor="middle">${escape(axis)}</text>`,
    ...drawn,
    `</svg>\n`,
  ].join("\n");
}
