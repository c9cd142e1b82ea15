/** What a picture of a confusion matrix is drawn from. */
export interface ConfusionCounts {
  readonly classes: readonly string[];
  /** Row by row of the truth. */
  readonly counts: readonly Uint32Array[];
}

const escape = (text: string): string =>
  text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);

/** A confusion matrix as an SVG picture: truth down, prediction across, the darker the larger the share of the truth. */
export function confusionPicture(title: string, { classes, counts }: ConfusionCounts): string {
  const longest = Math.max(...classes.map(({ length }) => length));
  const cell = Math.max(36, Math.min(72, 480 / classes.length));
  const left = 40 + Math.min(200, 7 * longest);
  const top = 56 + Math.min(200, 5 * longest);
  const [width, height] = [left + cell * classes.length + 20, top + cell * classes.length + 20];
  const cells = counts.flatMap((row, truth) => {
    const total = row.reduce((a, b) => a + b, 0) || 1;
    return Array.from(row, (count, prediction) => {
      const share = count / total;
      const [x, y] = [left + prediction * cell, top + truth * cell];
      const fill = truth === prediction ? "21, 128, 61" : "194, 65, 12";
      return (
        `<rect x="${x}" y="${y}" width="${cell}" height="${cell}" fill="rgba(${fill}, ${share.toFixed(3)})" stroke="#e5e7eb"/>` +
        `<text x="${x + cell / 2}" y="${y + cell / 2}" text-anchor="middle" dominant-baseline="middle" fill="${share > 0.55 ? "white" : "#374151"}">${count}</text>`
      );
    });
  });
  const names = classes.flatMap((name, place) => {
    const centre = place * cell + cell / 2;
    return [
      `<text x="${left - 8}" y="${top + centre}" text-anchor="end" dominant-baseline="middle">${escape(name)}</text>`,
      `<text transform="translate(${left + centre}, ${top - 8}) rotate(-40)">${escape(name)}</text>`,
    ];
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="12" fill="#374151">`,
    `<rect width="100%" height="100%" fill="white"/>`,
    `<text x="16" y="22" font-size="14" font-weight="600">${escape(title)}</text>`,
    `<text x="16" y="40" fill="#6b7280">truth down, prediction across</text>`,
    ...cells,
    ...names,
    `</svg>\n`,
  ].join("\n");
}
