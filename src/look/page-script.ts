/** What a page shows: every view is one attention, from the tokens of its rows to those of its columns. */
export interface PageData {
  readonly views: readonly PageView[];
}

export interface PageView {
  readonly name: string;
  readonly rows: readonly string[];
  readonly columns: readonly string[];
  /** Numbers of the layers that are shown. */
  readonly layers: readonly number[];
  readonly heads: number;
  /** Weights in 65,535ths, little-endian, base64: `[layers, heads, rows, columns]`. */
  readonly weights: string;
  /** By layer of the network: how far it turns every token's state, 1 less the cosine; empty without states. */
  readonly turns: readonly (readonly number[])[];
}

/**
 * Everything that the page does. It is written into the page as its source text, so it may use nothing from outside itself.
 * Text reaches the document as text alone.
 */
export function pageScript(): void {
  const data = JSON.parse(document.getElementById("data")!.textContent ?? "") as PageData;
  const find = <E extends HTMLElement>(id: string): E => document.getElementById(id) as E;
  const make = <K extends keyof HTMLElementTagNameMap>(tag: K, text = ""): HTMLElementTagNameMap[K] => {
    const element = document.createElement(tag);
    element.textContent = text;
    return element;
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const tip = find("tip");
  const mean = -1;
  // The last token of a decoder has all others before it.
  const state = { view: 0, layer: 0, head: mean, token: Infinity, pinned: false };

  const decoded = data.views.map(({ weights }) => {
    const bytes = Uint8Array.from(atob(weights), (character) => character.charCodeAt(0));
    const whole = new DataView(bytes.buffer);
    return Float32Array.from(
      { length: bytes.length / 2 },
      (_, index) => whole.getUint16(2 * index, true) / 65535,
    );
  });

  /** One head's weights, `[rows, columns]`; the mean of all heads of the layer for `mean`. */
  const mapOf = (layer: number, head: number): Float32Array => {
    const { heads, rows, columns } = data.views[state.view]!;
    const size = rows.length * columns.length;
    const all = decoded[state.view]!;
    const from = (h: number): Float32Array =>
      all.subarray((layer * heads + h) * size, (layer * heads + h + 1) * size);
    if (head !== mean) return from(head);
    const sum = new Float32Array(size);
    for (let h = 0; h < heads; h++) from(h).forEach((weight, index) => (sum[index]! += weight / heads));
    return sum;
  };

  const number = (value: number): string =>
    value === 0 || value >= 0.001 ? value.toFixed(3) : value < 0.00002 ? "< 0.00002" : value.toFixed(5);

  /** Small weights are told apart by the root. */
  const colour = (weight: number): [number, number, number] => {
    const [low, high] = dark.matches
      ? [
          [17, 24, 39],
          [125, 211, 252],
        ]
      : [
          [248, 250, 252],
          [3, 64, 112],
        ];
    const share = Math.sqrt(Math.max(0, Math.min(1, weight)));
    return [0, 1, 2].map((channel) =>
      Math.round(low![channel]! + share * (high![channel]! - low![channel]!)),
    ) as [number, number, number];
  };
  const css = (weight: number): string => `rgb(${colour(weight).join(",")})`;
  const inkOn = (weight: number): string => {
    const [red, green, blue] = colour(weight);
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#0f172a" : "#f8fafc";
  };
  const variable = (name: string): string =>
    getComputedStyle(document.documentElement).getPropertyValue(name);

  /** A map at one pixel for each weight. */
  const bitmap = (map: Float32Array, rows: number, columns: number): HTMLCanvasElement => {
    const canvas = make("canvas");
    [canvas.width, canvas.height] = [columns, rows];
    const context = canvas.getContext("2d")!;
    const image = context.createImageData(columns, rows);
    map.forEach((weight, index) => image.data.set([...colour(weight), 255], 4 * index));
    context.putImageData(image, 0, 0);
    return canvas;
  };

  /** A canvas of so many pixels of the page, sharp on dense screens. */
  const sized = (canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D => {
    const density = Math.min(2, devicePixelRatio || 1);
    [canvas.width, canvas.height] = [Math.round(width * density), Math.round(height * density)];
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d")!;
    context.scale(density, density);
    context.imageSmoothingEnabled = false;
    context.textBaseline = "middle";
    return context;
  };

  const say = (event: MouseEvent, lines: readonly string[]): void => {
    tip.replaceChildren(
      ...lines.map((line) => {
        const row = make("div", line);
        row.dir = "auto";
        return row;
      }),
    );
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - height - 8))}px`;
  };
  const hush = (): void => {
    tip.hidden = true;
  };

  /** Longest that a label may be, cut by its own characters. */
  const fit = (context: CanvasRenderingContext2D, text: string, width: number): string => {
    if (context.measureText(text).width <= width) return text;
    const characters = [...new Intl.Segmenter().segment(text)].map(({ segment }) => segment);
    while (characters.length > 1 && context.measureText(`${characters.join("")}…`).width > width)
      characters.pop();
    return `${characters.join("")}…`;
  };

  // ---- All heads ---------------------------------------------------------------------------------------------------

  const overview = find<HTMLCanvasElement>("overview");
  let thumb = { size: 0, left: 0, top: 0, gap: 4 };
  const drawOverview = (): void => {
    const { layers, heads, rows, columns } = data.views[state.view]!;
    const room = overview.parentElement!.clientWidth - 70;
    const size = Math.max(22, Math.min(84, Math.floor(room / heads) - 4));
    thumb = { size, left: 62, top: 22, gap: 4 };
    const context = sized(overview, thumb.left + heads * (size + 4), thumb.top + layers.length * (size + 4));
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = variable("--quiet");
    for (let head = 0; head < heads; head++) {
      context.textAlign = "center";
      context.fillText(
        size < 48 ? String(head) : `head ${head}`,
        thumb.left + head * (size + 4) + size / 2,
        11,
      );
    }
    layers.forEach((layer, row) => {
      const y = thumb.top + row * (size + 4);
      context.textAlign = "right";
      context.fillStyle = variable("--quiet");
      context.fillText(`layer ${layer}`, thumb.left - 8, y + size / 2);
      for (let head = 0; head < heads; head++) {
        const x = thumb.left + head * (size + 4);
        context.drawImage(bitmap(mapOf(row, head), rows.length, columns.length), x, y, size, size);
        const chosen = row === state.layer && (head === state.head || state.head === mean);
        context.strokeStyle = variable(chosen ? "--accent" : "--line");
        context.lineWidth = chosen ? 2 : 1;
        context.strokeRect(x - 0.5, y - 0.5, size + 1, size + 1);
      }
    });
  };
  const headAt = (event: MouseEvent): { layer: number; head: number } | undefined => {
    const { layers, heads } = data.views[state.view]!;
    const head = Math.floor((event.offsetX - thumb.left) / (thumb.size + thumb.gap));
    const layer = Math.floor((event.offsetY - thumb.top) / (thumb.size + thumb.gap));
    return head >= 0 && head < heads && layer >= 0 && layer < layers.length ? { layer, head } : undefined;
  };
  overview.onmousemove = (event) => {
    const at = headAt(event);
    overview.style.cursor = at ? "pointer" : "default";
    if (at) say(event, [`layer ${data.views[state.view]!.layers[at.layer]}, head ${at.head}`]);
    else hush();
  };
  overview.onmouseleave = hush;
  overview.onclick = (event) => {
    const at = headAt(event);
    if (!at) return;
    Object.assign(state, at);
    draw();
  };

  // ---- One head ----------------------------------------------------------------------------------------------------

  const matrix = find<HTMLCanvasElement>("matrix");
  let grid = { cell: 0, left: 0, top: 0 };
  let hovered: { row: number; column: number } | undefined;
  const drawMatrix = (): void => {
    const { rows, columns } = data.views[state.view]!;
    const map = mapOf(state.layer, state.head);
    const measure = matrix.getContext("2d")!;
    const font = "12px system-ui, sans-serif";
    measure.font = font;
    const widest = (labels: readonly string[]): number =>
      Math.min(130, Math.max(...labels.map((label) => measure.measureText(label).width)) + 12);
    const [left, top] = [widest(rows), widest(columns)];
    const room = matrix.parentElement!.clientWidth - left - 8;
    const cell = Math.max(14, Math.min(30, Math.floor(room / columns.length), Math.floor(640 / rows.length)));
    grid = { cell, left, top };
    const context = sized(matrix, left + columns.length * cell + 8, top + rows.length * cell + 8);
    context.font = font;
    context.drawImage(
      bitmap(map, rows.length, columns.length),
      left,
      top,
      columns.length * cell,
      rows.length * cell,
    );
    context.strokeStyle = variable("--line");
    context.strokeRect(left - 0.5, top - 0.5, columns.length * cell + 1, rows.length * cell + 1);
    const ink = (chosen: boolean): string => variable(chosen ? "--accent" : "--ink");
    rows.forEach((label, row) => {
      context.fillStyle = ink(hovered?.row === row);
      context.textAlign = "right";
      context.fillText(fit(context, label, left - 10), left - 6, top + (row + 0.5) * cell);
    });
    columns.forEach((label, column) => {
      context.save();
      context.translate(left + (column + 0.5) * cell, top - 6);
      context.rotate(-Math.PI / 2);
      context.fillStyle = ink(hovered?.column === column);
      context.textAlign = "left";
      context.fillText(fit(context, label, top - 10), 0, 0);
      context.restore();
    });
    if (hovered) {
      context.strokeStyle = variable("--accent");
      context.lineWidth = 2;
      context.strokeRect(left + hovered.column * cell, top + hovered.row * cell, cell, cell);
    }
  };
  matrix.onmousemove = (event) => {
    const { rows, columns } = data.views[state.view]!;
    const column = Math.floor((event.offsetX - grid.left) / grid.cell);
    const row = Math.floor((event.offsetY - grid.top) / grid.cell);
    const inside = row >= 0 && row < rows.length && column >= 0 && column < columns.length;
    const before = hovered;
    hovered = inside ? { row, column } : undefined;
    if (before?.row !== hovered?.row || before?.column !== hovered?.column) drawMatrix();
    if (!hovered) return hush();
    const weight = mapOf(state.layer, state.head)[row * columns.length + column]!;
    say(event, [`from ${row}: ${rows[row]}`, `to ${column}: ${columns[column]}`, `weight ${number(weight)}`]);
    if (!state.pinned && state.token !== row) {
      state.token = row;
      drawTokens();
    }
  };
  matrix.onmouseleave = () => {
    hovered = undefined;
    drawMatrix();
    hush();
  };

  // ---- One token ---------------------------------------------------------------------------------------------------

  const drawTokens = (): void => {
    const view = data.views[state.view]!;
    const { rows, columns } = view;
    const map = mapOf(state.layer, state.head).subarray(
      state.token * columns.length,
      (state.token + 1) * columns.length,
    );
    const chip = (label: string): HTMLSpanElement => {
      const element = make("span", label);
      element.className = "chip";
      element.dir = "auto";
      return element;
    };
    find("from").replaceChildren(
      ...rows.map((label, row) => {
        const element = chip(label);
        element.tabIndex = 0;
        if (row === state.token) element.classList.add("chosen");
        const choose = (pinned: boolean): void => {
          if (state.pinned && !pinned) return;
          const same = state.token === row;
          state.pinned = pinned && !(state.pinned && same);
          state.token = row;
          if (!same) drawTokens();
        };
        element.onmouseenter = () => choose(false);
        element.onclick = () => choose(true);
        element.onkeydown = ({ key }) => key === "Enter" && choose(true);
        return element;
      }),
    );
    find("to").replaceChildren(
      ...columns.map((label, column) => {
        const weight = map[column]!;
        const element = chip(label);
        element.style.background = css(weight);
        element.style.color = inkOn(weight);
        element.onmousemove = (event) => say(event, [`${column}: ${label}`, `weight ${number(weight)}`]);
        element.onmouseleave = hush;
        return element;
      }),
    );
    const order = [...map.keys()].sort((a, b) => map[b]! - map[a]!).slice(0, 6);
    find("most").replaceChildren(
      ...order.map((column) => {
        const row = make("tr");
        const label = make("td", columns[column]);
        label.dir = "auto";
        const bar = make("td");
        const fill = make("div");
        fill.className = "bar";
        fill.style.width = `${100 * map[column]!}%`;
        bar.append(fill);
        row.append(label, make("td", number(map[column]!)), bar);
        return row;
      }),
    );
    find("choice").textContent = `${rows[state.token]} (token ${state.token})`;
  };

  // ---- States ------------------------------------------------------------------------------------------------------

  const turns = find<HTMLCanvasElement>("turns");
  let turned = { cell: 0, left: 62, top: 0 };
  const drawTurns = (): void => {
    const { rows, turns: values } = data.views[state.view]!;
    find("states").hidden = values.length === 0;
    if (values.length === 0) return;
    const cell = Math.max(14, Math.min(30, Math.floor(620 / rows.length)));
    const measure = turns.getContext("2d")!;
    measure.font = "12px system-ui, sans-serif";
    const top = Math.min(130, Math.max(...rows.map((label) => measure.measureText(label).width)) + 12);
    turned = { cell, left: 62, top };
    const height = 20;
    const context = sized(turns, 62 + rows.length * cell + 8, top + values.length * height + 4);
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = variable("--ink");
    rows.forEach((label, column) => {
      context.save();
      context.translate(62 + (column + 0.5) * cell, top - 6);
      context.rotate(-Math.PI / 2);
      context.fillText(fit(context, label, top - 10), 0, 0);
      context.restore();
    });
    values.forEach((layer, row) => {
      context.textAlign = "right";
      context.fillStyle = variable("--quiet");
      context.fillText(`layer ${row}`, 54, top + (row + 0.5) * height);
      layer.forEach((value, column) => {
        context.fillStyle = css(value);
        context.fillRect(62 + column * cell, top + row * height, cell, height);
      });
    });
    context.strokeStyle = variable("--line");
    context.strokeRect(61.5, top - 0.5, rows.length * cell + 1, values.length * height + 1);
  };
  turns.onmousemove = (event) => {
    const { rows, turns: values } = data.views[state.view]!;
    const column = Math.floor((event.offsetX - turned.left) / turned.cell);
    const layer = Math.floor((event.offsetY - turned.top) / 20);
    const value = values[layer]?.[column];
    if (value === undefined) return hush();
    say(event, [`${column}: ${rows[column]}`, `layer ${layer} turns it by ${number(value)}`]);
  };
  turns.onmouseleave = hush;

  // ---- Choices -----------------------------------------------------------------------------------------------------

  const options = (
    select: HTMLSelectElement,
    choices: readonly (readonly [number, string])[],
    value: number,
  ): void => {
    select.replaceChildren(
      ...choices.map(([key, label]) => {
        const option = make("option", label);
        option.value = String(key);
        return option;
      }),
    );
    select.value = String(value);
  };
  const [views, layers, heads] = ["views", "layers", "heads"].map((id) => find<HTMLSelectElement>(id)) as [
    HTMLSelectElement,
    HTMLSelectElement,
    HTMLSelectElement,
  ];
  const draw = (): void => {
    const view = data.views[state.view]!;
    state.layer = Math.min(state.layer, view.layers.length - 1);
    state.head = Math.min(state.head, view.heads - 1);
    state.token = Math.min(state.token, view.rows.length - 1);
    options(
      views,
      data.views.map(({ name }, index) => [index, name] as const),
      state.view,
    );
    views.parentElement!.hidden = data.views.length === 1;
    options(
      layers,
      view.layers.map((layer, index) => [index, `layer ${layer}`] as const),
      state.layer,
    );
    options(
      heads,
      [
        [mean, "mean of all heads"],
        ...Array.from({ length: view.heads }, (_, head) => [head, `head ${head}`] as const),
      ],
      state.head,
    );
    find("which").textContent =
      `Layer ${view.layers[state.layer]}, ${state.head === mean ? "mean of all heads" : `head ${state.head}`}`;
    drawOverview();
    drawMatrix();
    drawTokens();
    drawTurns();
  };
  for (const [select, key] of [
    [views, "view"],
    [layers, "layer"],
    [heads, "head"],
  ] as const)
    select.onchange = () => {
      state[key] = Number(select.value);
      draw();
    };
  find("scale").style.background =
    `linear-gradient(to right, ${[0, 0.04, 0.16, 0.36, 0.64, 1].map((weight) => css(weight)).join(", ")})`;
  dark.onchange = () => draw();
  onresize = () => {
    drawOverview();
    drawMatrix();
  };
  draw();
}
