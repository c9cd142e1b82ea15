import { extent } from "d3-array";
import { scaleLinear, scaleLog } from "d3-scale";
import { line } from "d3-shape";
import { quiet, round, rule, svgPicture, svgText, textSize, textWidth, visible } from "./svg.js";

export interface Curve {
  readonly label: string;
  /** A point that is not finite leaves a gap; one with an error has a bar so far above and below it. */
  readonly points: readonly {
    readonly step: number;
    readonly loss: number;
    readonly error?: number | undefined;
  }[];
}

export interface ChartOptions {
  /** What is counted across, with its unit. Default "step". */
  readonly x?: string | undefined;
  /** What is measured, with its unit. Default "loss, nats". */
  readonly y?: string | undefined;
  /** Axes whose scale is logarithmic; what is not above 0 has no place there. Default: none. */
  readonly log?: "x" | "y" | "both" | undefined;
}

const colours = ["#4472b0", "#c2410c", "#15803d", "#7e22ce", "#0f766e", "#a16207", "#be185d", "#475569"];
const [width, height] = [640, 360];
const margin = 16;
/** Pixels from one line of the legend to the next. */
const row = 18;

interface Point {
  readonly x: number;
  readonly y: number;
  /** Below and above which value the bar of its error ends. */
  readonly bar?: readonly [low: number, high: number];
}

/** Loss over steps, or what `options` name, as an SVG picture with its axes, their units and a legend. */
export function lossChart(title: string, curves: readonly Curve[], options: ChartOptions = {}): string {
  const { x: across = "step", y: upwards = "loss, nats", log } = options;
  const [logX, logY] = [log === "x" || log === "both", log === "y" || log === "both"];
  const lines = curves.map(({ label, points }) => ({
    label: visible(label),
    points: points.map(({ step, loss, error = 0 }): Point => ({
      x: step,
      y: loss,
      ...(error > 0 && Number.isFinite(error) && { bar: [loss - error, loss + error] }),
    })),
  }));
  const shown = ({ x, y }: Point): boolean =>
    Number.isFinite(x) && Number.isFinite(y) && (!logX || x > 0) && (!logY || y > 0);
  const all = lines.flatMap(({ points }) => points.filter(shown));

  const legend = legendOf(lines.map(({ label }) => label));
  const top = 40 + legend.rows * row;
  const bottom = height - 46;
  const y = (logY ? scaleLog() : scaleLinear())
    .domain(
      domainOf(
        all.flatMap((point) => [point.y, ...(point.bar ?? [])]).filter((value) => !logY || value > 0),
        logY,
      ),
    )
    .range([bottom, top])
    .nice();
  const upTicks = ticksOf(y, Math.max(2, Math.floor((bottom - top) / 44)), logY);
  const left = margin + 22 + Math.max(...upTicks.map(({ label }) => textWidth(label, textSize)));
  const x = (logX ? scaleLog() : scaleLinear()).domain(
    domainOf(
      all.map((point) => point.x),
      logX,
    ),
  );
  const candidates = ticksOf(x, 6, logX);
  // Half of the last number stands beyond its place.
  const beyond = Math.max(14, textWidth(candidates.at(-1)?.label ?? "", textSize) / 2);
  x.range([left, width - margin - beyond]);
  const acrossTicks = apart(candidates, (tick) => x(tick));

  const path = line<Point>(
    (point) => round(x(point.x)),
    (point) => round(y(point.y)),
  ).defined(shown);
  const drawn = lines.map(({ points }, index) => {
    const colour = colours[index % colours.length]!;
    const dashes = index < colours.length ? "" : ` stroke-dasharray="5 3"`;
    // Between two gaps there is no line.
    const alone = points
      .filter((point, at) => shown(point) && !neighbour(points[at - 1]) && !neighbour(points[at + 1]))
      .map((point) => `<circle cx="${round(x(point.x))}" cy="${round(y(point.y))}" r="3" fill="${colour}"/>`);
    const bars = points.flatMap((point) => {
      if (!point.bar || !shown(point)) return [];
      const [low, high] = point.bar;
      const [from, to] = [round(y(logY && low <= 0 ? y.domain()[0]! : low)), round(y(high))];
      const at = round(x(point.x));
      const cap = (place: number): string =>
        `<line x1="${at - 3}" x2="${at + 3}" y1="${place}" y2="${place}" stroke="${colour}"/>`;
      return [
        `<line x1="${at}" x2="${at}" y1="${from}" y2="${to}" stroke="${colour}"/>${cap(from)}${cap(to)}`,
      ];
    });
    return `${bars.join("")}<path d="${path(points) ?? ""}" fill="none" stroke="${colour}"${dashes} stroke-width="${index === 0 ? 1.2 : 2}" stroke-linejoin="round"/>${alone.join("")}`;
  });
  function neighbour(point: Point | undefined): boolean {
    return point !== undefined && shown(point);
  }

  return svgPicture(width, height, [
    svgText(visible(title), margin, 20, { size: 14, bold: true, room: width - 2 * margin }),
    ...legend.parts,
    ...upTicks.flatMap(({ value, label }) => [
      `<line x1="${round(left)}" x2="${width - margin}" y1="${round(y(value))}" y2="${round(y(value))}" stroke="${rule}"/>`,
      svgText(label, left - 6, y(value), { anchor: "end" }),
    ]),
    ...acrossTicks.flatMap(({ value, label }) => [
      `<line x1="${round(x(value))}" x2="${round(x(value))}" y1="${bottom}" y2="${bottom + 4}" stroke="${quiet}"/>`,
      svgText(label, x(value), bottom + 14, { anchor: "middle" }),
    ]),
    svgText(visible(across), (left + width - margin) / 2, height - 12, {
      anchor: "middle",
      fill: quiet,
      room: width - left - margin,
    }),
    svgText(visible(upwards), margin, (top + bottom) / 2, {
      anchor: "middle",
      fill: quiet,
      turn: -90,
      room: bottom - top,
    }),
    ...(all.length === 0
      ? [
          svgText("no values yet", (left + width - margin) / 2, (top + bottom) / 2, {
            anchor: "middle",
            fill: quiet,
          }),
        ]
      : []),
    ...drawn,
  ]);
}

/** From the least to the most, and a range around a single value. */
function domainOf(values: readonly number[], log: boolean): [number, number] {
  const [least = log ? 1 : 0, most = log ? 10 : 1] = extent(values);
  if (least < most) return [least, most];
  if (log) return [least / 2, least * 2];
  const around = Math.abs(least) * 0.1 || 0.5;
  return [least - around, least + around];
}

interface Tick {
  readonly value: number;
  readonly label: string;
}

type Scale = ReturnType<typeof scaleLinear<number, number>> | ReturnType<typeof scaleLog<number, number>>;

/** About `count` places of an axis with their numbers; of a logarithmic one, powers of ten where they suffice. */
function ticksOf(scale: Scale, count: number, log: boolean): Tick[] {
  let values = scale.ticks(count);
  const powers = values.filter((value) => Number.isInteger(Math.round(1e9 * Math.log10(value)) / 1e9));
  if (log && powers.length >= 2) values = powers;
  const format = scale.tickFormat(count);
  const largest = Math.max(...values.map(Math.abs));
  const short = values.map(shortNumber);
  // Six digits may not tell neighbours apart.
  const exact = !log && (largest < 1e5 || new Set(short).size < short.length);
  return values.map((value, index) => ({ value, label: exact ? format(value) : short[index]! }));
}

/** `250k`, `1.5M`, `1e-7`. */
function shortNumber(value: number): string {
  const size = Math.abs(value);
  for (const [unit, letter] of [
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ] as const)
    if (size >= unit) return `${Number((value / unit).toPrecision(6))}${letter}`;
  return size !== 0 && size < 1e-4 ? value.toExponential() : String(Number(value.toPrecision(6)));
}

/** Ticks whose labels stand apart; every second, third, … where all would touch. */
function apart(ticks: readonly Tick[], at: (value: number) => number): Tick[] {
  for (let every = 1; every < ticks.length; every++) {
    const kept = ticks.filter((_, index) => index % every === 0);
    const free = kept.every(({ value, label }, index) => {
      const next = kept[index + 1];
      if (!next) return true;
      const needed = (textWidth(label, textSize) + textWidth(next.label, textSize)) / 2 + 10;
      return Math.abs(at(next.value) - at(value)) >= needed;
    });
    if (free) return kept;
  }
  return ticks.slice(0, 1);
}

/** Lines of a legend: swatches with labels, as many beside each other as have room. More than eight rows are counted. */
function legendOf(labels: readonly string[]): { parts: string[]; rows: number } {
  const parts: string[] = [];
  const most = 8;
  let [x, line] = [margin, 0];
  for (const [index, label] of labels.entries()) {
    const room = Math.min(textWidth(label, textSize), width - 2 * margin - 24);
    if (x > margin && x + 24 + room > width - margin) {
      x = margin;
      line++;
    }
    const y = 42 + line * row;
    if (line === most - 1 && index < labels.length - 1) {
      parts.push(svgText(`and ${labels.length - index} more`, margin, y, { fill: quiet }));
      break;
    }
    const colour = colours[index % colours.length]!;
    const dashes = index < colours.length ? "" : ` stroke-dasharray="5 3"`;
    parts.push(
      `<line x1="${round(x)}" x2="${round(x + 16)}" y1="${y}" y2="${y}" stroke="${colour}"${dashes} stroke-width="3"/>`,
      svgText(label, x + 22, y, { room }),
    );
    x += 24 + room + 18;
  }
  return { parts, rows: labels.length === 0 ? 0 : line + 1 };
}
