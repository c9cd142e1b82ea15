/** Pixels for each unit of an SVG: as sharp on a dense screen as on paper. */
const zoom = 2;
const letter = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><text y="9">x</text></svg>';

const packageName = "@resvg/resvg-js" as string;
type Renderer = typeof import("@resvg/resvg-js");
let known: Promise<Renderer | undefined> | undefined;

/** The renderer, where it has a library for this system and the system has a font: pictures without their words say little. */
async function load(): Promise<Renderer | undefined> {
  let renderer: Renderer;
  try {
    // By a name that no bundler follows: what it would find is a library of this machine's.
    renderer = (await import(packageName)) as Renderer;
  } catch {
    // Its libraries are optional parts of its package. What is drawn is there as SVG in any case.
    return undefined;
  }
  return new renderer.Resvg(letter).getBBox() ? renderer : undefined;
}

/** An SVG as PNG, by resvg; undefined where this system cannot draw its words. */
export async function pngOf(svg: string): Promise<Uint8Array | undefined> {
  const renderer = await (known ??= load());
  if (!renderer) return undefined;
  const picture = await renderer.renderAsync(svg, { fitTo: { mode: "zoom", value: zoom } });
  return picture.asPng();
}
