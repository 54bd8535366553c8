// Line charts as SVG, at the size that they are shown.

/**
 * A chart of series over positions 0 to count - 1.
 * series: [{values, name}] with the CSS class as name; range: [low, high] or null; marks: positions of dots;
 * labels: [text at a position]; cursor: position or null; pick: called with the position that was clicked.
 */
function lineChart({ width, height, series, range = null, labels = [], marks = [], cursor = null, pick = null }) {
  const [left, right, top, bottom] = [38, 8, 8, 18];
  const count = Math.max(...series.map((s) => s.values.length));
  const [low, high] = range || extent(series);
  const x = (i) => left + (count > 1 ? i / (count - 1) : 0.5) * (width - left - right);
  const y = (value) => top + (1 - (value - low) / (high - low || 1)) * (height - top - bottom);
  const svg = make("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}` });
  for (const tick of range ? [0, 25, 50, 75, 100] : ticks(low, high)) {
    svg.append(make("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
    svg.append(make("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
  }
  for (const [i, text] of labels) {
    const anchor = i === 0 ? "start" : i >= count - 1 ? "end" : "middle";
    svg.append(make("text", { x: x(i), y: height - 4, "text-anchor": anchor }, text));
  }
  for (const { values, name } of series) svg.append(make("path", { class: `line ${name}`, d: pathData(values, x, y) }));
  for (const [i, value] of marks) svg.append(make("circle", { class: "worst", cx: x(i), cy: y(value), r: 3 }));
  if (cursor !== null) svg.append(make("line", { class: "cursor", x1: x(cursor), x2: x(cursor), y1: top, y2: height - bottom }));
  if (pick) svg.addEventListener("click", (event) => {
    const at = (event.clientX - svg.getBoundingClientRect().left - left) / (width - left - right);
    pick(clamp(Math.round(at * (count - 1)), count - 1));
  });
  return svg;
}

/** Lines through the values that are there, and a dot for one without neighbours. */
function pathData(values, x, y) {
  let data = "", before = null;
  values.forEach((value, i) => {
    if (value !== null) {
      const alone = before === null && (i + 1 >= values.length || values[i + 1] === null);
      data += `${before === null ? "M" : "L"}${x(i).toFixed(1)} ${y(value).toFixed(1)}${alone ? "h1" : ""}`;
    }
    before = value;
  });
  return data;
}

function extent(series) {
  const values = series.flatMap((s) => s.values.filter((value) => value !== null));
  const low = Math.min(...values), high = Math.max(...values);
  return low === high ? [low - 0.5, high + 0.5] : [Math.min(low, low > 0 && low < 0.4 * high ? 0 : low), high];
}

function ticks(low, high) {
  const rough = (high - low) / 4, base = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * base).find((s) => s >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + 1e-9; tick += step) found.push(+tick.toPrecision(6));
  return found;
}

/** Training curves as small multiples. */
function renderCurves() {
  const container = $("curves");
  const width = Math.max(280, Math.min(440, container.clientWidth / 3 - 24));
  container.replaceChildren();
  for (const { name, steps, series } of index.curves) for (const [key, values] of Object.entries(series)) {
    const last = values.findLast((value) => value !== null);
    if (last === undefined) continue;
    const labels = [[0, String(steps[0])], [values.length - 1, `step ${steps.at(-1)}`]];
    const chart = lineChart({ width, height: 150, series: [{ values, name: "loss" }], labels });
    container.append(make("figure", {}, make("h3", {}, `${name}: ${key}`), chart, make("figcaption", {}, `last ${+last.toPrecision(4)}`)));
  }
}
