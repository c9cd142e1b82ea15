import { escapeMarkup, visible } from "../pictures/index.js";
import { type PageData, type PageView, pageScript } from "./page-script.js";
import type { AttentionMap, Looked, LookedText, LookedToken } from "./looker.js";

/** Weights in one page; beyond, tokens are left out. Two bytes each, a third more in base64. */
const mostWeights = 6_000_000;

export interface PageOptions {
  /** What is looked at, for the title: the model's name. */
  readonly name: string;
}

/** A picture of a text's attention: from rows to columns, for the tokens that are shown. */
export interface AttentionView {
  readonly name: string;
  readonly rows: readonly LookedToken[];
  readonly columns: readonly LookedToken[];
  readonly maps: readonly AttentionMap[];
  /** States of the rows: what every layer read, and what the stack gave. Empty where nobody asked for them. */
  readonly hiddenStates: readonly Float32Array[];
}

/** Every attention of a model: one; or an encoder-decoder's three. */
export function viewsOf(looked: Looked): AttentionView[] {
  const own = (name: string, { tokens, attention, hiddenStates }: LookedText): AttentionView => ({
    name,
    rows: tokens,
    columns: tokens,
    maps: attention,
    hiddenStates,
  });
  const { source, cross } = looked;
  if (!source || !cross) return [own("self-attention", looked)];
  return [
    {
      name: "from what is written to the source",
      rows: looked.tokens,
      columns: source.tokens,
      maps: cross,
      hiddenStates: [],
    },
    own("encoder: the source", source),
    own("decoder: what is written", looked),
  ];
}

const breaks: Readonly<Record<string, string>> = { "\n": "⏎", "\t": "⇥", "\r": "␍" };

/** A token's text so that each of its characters is seen, spaces at its ends and line breaks too. */
export const shownToken = (text: string): string =>
  text === ""
    ? "∅"
    : visible(
        text
          .replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length))
          .replace(/[\n\t\r]/g, (character) => breaks[character]!),
      );

/** A view with no more than `count` tokens to each side. */
function cutView({ name, rows, columns, maps, hiddenStates }: AttentionView, count: number): PageView {
  const [height, width] = [Math.min(count, rows.length), Math.min(count, columns.length)];
  const heads = maps[0]?.heads ?? 0;
  const bytes = Buffer.alloc(2 * maps.length * heads * height * width);
  let place = 0;
  for (const { weights } of maps)
    for (let head = 0; head < heads; head++)
      for (let row = 0; row < height; row++)
        for (let column = 0; column < width; column++) {
          const weight = weights[(head * rows.length + row) * columns.length + column]!;
          place = bytes.writeUInt16LE(Math.round(65535 * Math.min(1, Math.max(0, weight))), place);
        }
  return {
    name,
    rows: rows.slice(0, height).map(({ text }) => shownToken(text)),
    columns: columns.slice(0, width).map(({ text }) => shownToken(text)),
    layers: maps.map(({ layer }) => layer),
    heads,
    weights: bytes.toString("base64"),
    turns: turnsOf(hiddenStates, rows.length, height),
  };
}

/** How far each layer turns the states of the first `count` tokens: 1 less the cosine of before and after. */
function turnsOf(states: readonly Float32Array[], tokens: number, count: number): number[][] {
  return states.slice(1).map((after, layer) => {
    const before = states[layer]!;
    const size = before.length / tokens;
    return Array.from({ length: count }, (_, token) => {
      let [product, a, b] = [0, 0, 0];
      for (let i = token * size; i < (token + 1) * size; i++) {
        product += before[i]! * after[i]!;
        a += before[i]! ** 2;
        b += after[i]! ** 2;
      }
      return a === 0 || b === 0 ? 0 : Number((1 - product / Math.sqrt(a * b)).toFixed(4));
    });
  });
}

/** The most tokens to each side with which all views fit into a page. */
function tokensThatFit(views: readonly AttentionView[]): number {
  const weights = (count: number): number =>
    views.reduce(
      (sum, { rows, columns, maps }) =>
        sum +
        maps.length * (maps[0]?.heads ?? 0) * Math.min(count, rows.length) * Math.min(count, columns.length),
      0,
    );
  let count = Math.max(...views.flatMap(({ rows, columns }) => [rows.length, columns.length]));
  while (count > 1 && weights(count) > mostWeights) count--;
  return count;
}

/** What is not shown, as sentences. */
export function cutsOf(looked: Looked): string[] {
  const views = viewsOf(looked);
  const fit = tokensThatFit(views);
  const texts = [looked, ...(looked.source ? [looked.source] : [])];
  const cuts = texts
    .filter(({ truncated }) => truncated > 0)
    .map(
      ({ tokens, truncated }) =>
        `The model read ${tokens.length} tokens; ${truncated} more ${truncated === 1 ? "was" : "were"} left out.`,
    );
  const longest = Math.max(...texts.map(({ tokens }) => tokens.length));
  if (fit < longest)
    cuts.push(`Of ${longest} tokens the page shows the first ${fit}: fewer layers leave room for more.`);
  return cuts;
}

/**
 * One HTML page that shows attention by layers, heads and tokens, and how far each layer turns each token's state. It holds
 * all that it needs, and loads nothing: a policy in it forbids that.
 */
export function lookPage(looked: Looked, { name }: PageOptions): string {
  const views = viewsOf(looked);
  const count = tokensThatFit(views);
  const data: PageData = { views: views.map((view) => cutView(view, count)) };
  const title = visible(`Attention of ${name}`);
  // Within a script's element, "<" alone could end it.
  const json = JSON.stringify(data).replaceAll("<", "\\u003c");
  const notes = [`${looked.model}.`, ...cutsOf(looked)].join(" ");
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>${escapeMarkup(title)}</title>
<style>
${style}
</style>
</head>
<body>
<header>
<h1>${escapeMarkup(title)}</h1>
<p class="quiet">${escapeMarkup(notes)} Layers, heads and tokens are counted from 0.</p>
<form>
<label>attention <select id="views"></select></label>
<label>layer <select id="layers"></select></label>
<label>head <select id="heads"></select></label>
<span class="legend">0 <span id="scale"></span> 1 <span class="quiet">(weight; colours by its square root)</span></span>
</form>
</header>
<main>
<section>
<h2 id="which"></h2>
<p class="quiet">A row says where its token looks: the weights of a row sum to 1.</p>
<div class="scroll"><canvas id="matrix"></canvas></div>
</section>
<section>
<h2>One token</h2>
<p class="quiet">Point at a token, or click to hold it.</p>
<p id="from" class="chips"></p>
<p class="quiet">Where <b id="choice" dir="auto"></b> looks:</p>
<p id="to" class="chips"></p>
<table><tbody id="most"></tbody></table>
</section>
<section class="wide">
<h2>All heads</h2>
<p class="quiet">Click one to see it above.</p>
<div class="scroll"><canvas id="overview"></canvas></div>
</section>
<section class="wide" id="states">
<h2>Hidden states</h2>
<p class="quiet">How far each layer turns each token's state: 1 less the cosine of the state before and after it. The last row has the final norm in it, where there is one.</p>
<div class="scroll"><canvas id="turns"></canvas></div>
</section>
</main>
<div id="tip" role="tooltip" hidden></div>
<script type="application/json" id="data">${json}</script>
<script>
(${pageScript.toString()})();
</script>
</body>
</html>
`;
}

const style = `:root { color-scheme: light dark; --ink: #1f2937; --quiet: #6b7280; --line: #cbd5e1; --paper: #ffffff; --card: #f8fafc; --accent: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --quiet: #9ca3af; --line: #374151; --paper: #0b1120; --card: #111827; --accent: #fb923c; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 20px; background: var(--paper); color: var(--ink); font: 14px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 20px; overflow-wrap: anywhere; }
h2 { margin: 0; font-size: 15px; }
p { margin: 4px 0 10px; }
.quiet { color: var(--quiet); }
form { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: center; }
select { font: inherit; padding: 2px 4px; color: var(--ink); background: var(--card); border: 1px solid var(--line); border-radius: 4px; }
.legend { display: inline-flex; gap: 6px; align-items: center; }
#scale { display: inline-block; width: 110px; height: 12px; border: 1px solid var(--line); }
main { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 16px; margin-top: 16px; align-items: start; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; min-width: 0; }
.wide { grid-column: 1 / -1; }
@media (max-width: 900px) { main { grid-template-columns: minmax(0, 1fr); } }
.scroll { overflow: auto; max-height: 80vh; }
.chips { display: flex; flex-wrap: wrap; gap: 4px; max-height: 40vh; overflow: auto; }
.chip { padding: 1px 5px; border: 1px solid var(--line); border-radius: 4px; unicode-bidi: isolate; max-width: 100%; overflow-wrap: anywhere; white-space: pre-wrap; cursor: default; }
.chip.chosen { border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent); }
#from .chip { cursor: pointer; }
table { border-collapse: collapse; width: 100%; }
td { padding: 2px 10px 2px 0; white-space: nowrap; font-variant-numeric: tabular-nums; max-width: 180px; overflow: hidden; text-overflow: ellipsis; }
td:last-child { width: 60%; }
.bar { height: 10px; border-radius: 2px; background: var(--accent); }
#tip { position: fixed; z-index: 1; max-width: 320px; padding: 6px 9px; border-radius: 6px; background: var(--ink); color: var(--paper); font-size: 13px; line-height: 1.35; overflow-wrap: anywhere; pointer-events: none; }`;
