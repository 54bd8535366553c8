// The spatial graph of one object in the frame that is shown, and why its node was chosen.

const TERMS = ["box", "mask", "gate"];
const ORIGINS = {
  p: "the previous mask, warped, at the predicted box", colour: "the colours of the first frame at the predicted box",
  moved: "the latest mask moved to the predicted box", first: "the first mask moved to the predicted box",
  blank: "the predicted box without a mask", box: "a box from outside", found: "found again after it was lost",
};

/** What a proposal was made from. */
function originOf({ origin }) {
  const warped = /^q(\d+)$/.exec(origin);
  return warped ? `the mask of ${warped[1]} frame${warped[1] === "1" ? "" : "s"} before, warped` : ORIGINS[origin] || "";
}

const meanWeight = (object, v, u) => (object.weights[v * object.nodes.length + u] + object.weights[u * object.nodes.length + v]) / 2;

/** Least and greatest weight of the edges that are there. */
function weightRange(object) {
  const pairs = object.nodes.flatMap((_, v) => Array.from({ length: v }, (_, u) => meanWeight(object, v, u)));
  return extremes(pairs.filter((weight) => weight !== 0));
}

const edgeWidth = (weight, range) => 0.5 + 4 * share(weight, range);

async function renderGraphSection(detail) {
  const { sequence, frame } = state;
  $("graph").hidden = !traced(sequence);
  if ($("graph").hidden) return;
  $("graph-where").textContent = `frame ${sequence.frames[frame]}`;
  const object = objectOf(detail);
  renderChips(detail);
  $("graph-body").hidden = !object?.nodes.length;
  $("graph-note").textContent = !object ? missingDetail(sequence, frame) : object && !object.nodes.length ? "No proposals: the object is carried by Q alone." : "";
  if ($("graph-body").hidden) return;
  const image = await pictureOf(sequence, frame);
  state.hover = null;
  renderGraph(object);
  renderMatrix(object);
  renderNodes(detail, object, image);
}

function missingDetail(sequence, frame) {
  const given = Object.values(sequence.given).some((t) => t === frame);
  return given ? "The objects of this frame were given, so there is nothing to select." : "Nothing is known of how this frame came about.";
}

/** The object that is looked at, or the first one of the frame. */
function objectOf(detail) {
  return detail ? detail.objects.find((object) => object.id === state.object) || detail.objects[0] : null;
}

function renderChips(detail) {
  const objects = detail && detail.objects.length > 1 ? detail.objects : [];
  const current = objectOf(detail);
  $("graph-objects").replaceChildren(...objects.map((object) => {
    const pick = () => ((state.object = object.id), renderTimeline(), renderDetails());
    return make("button", { type: "button", "aria-pressed": String(object === current), onclick: pick }, swatch(colourOf(object.id)), `object ${object.id}`);
  }));
}

const nodeName = (node, v) => `${v + 1}${node.origin ? ` ${node.origin}` : ""}`;

/** Nodes on a circle; edges as wide and as dark as their weights. */
function renderGraph(object) {
  const svg = $("graph-svg"), n = object.nodes.length, middle = 215, radius = n > 1 ? 155 : 0;
  const at = (v, r) => [0, 1].map((axis) => middle + r * (axis ? -Math.cos((2 * Math.PI * v) / n) : Math.sin((2 * Math.PI * v) / n)));
  const range = weightRange(object), lines = [], nodes = [];
  for (let v = 0; v < n; v++) for (let u = 0; u < v; u++) {
    const weight = meanWeight(object, v, u);
    if (weight === 0) continue;
    const [[x1, y1], [x2, y2]] = [at(v, radius), at(u, radius)];
    const title = make("title", {}, `${nodeName(object.nodes[v], v)} – ${nodeName(object.nodes[u], u)}: ${fixed(weight)}`);
    const style = { "stroke-width": edgeWidth(weight, range), "stroke-opacity": 0.08 + 0.72 * share(weight, range) };
    lines.push(make("line", { x1, y1, x2, y2, ...style, "data-v": v, "data-u": u, "data-opacity": style["stroke-opacity"] }, title));
  }
  object.nodes.forEach((node, v) => {
    const [x, y] = at(v, radius), [tx, ty] = n > 1 ? at(v, radius + 24) : [x, y - 22];
    const anchor = Math.abs(tx - middle) < 20 ? "middle" : tx > middle ? "start" : "end";
    const circle = make("circle", { cx: x, cy: y, r: n > 40 ? 4 : 7 + 5 * Math.min(1, Math.max(0, node.gate ?? 0)) });
    const label = make("text", { x: tx, y: ty + 4, "text-anchor": anchor }, nodeName(node, v));
    const hover = (on) => () => highlight(object, on ? v : null);
    const group = { class: v === object.selected ? "node selected" : "node", onmouseenter: hover(true), onmouseleave: hover(false) };
    nodes.push(make("g", group, make("title", {}, [originOf(node), `total ${fixed(node.total)}`].filter(Boolean).join(", ")), circle, label));
  });
  svg.setAttribute("viewBox", "-50 20 530 395");
  svg.replaceChildren(...lines, ...nodes);
  const edges = lines.length ? `Edge weights ${range.map((weight) => fixed(weight)).join(" to ")}, the mean of both directions.` : "No edges.";
  const sizes = "Circles grow with the gate; the thick one was selected. ";
  $("graph-caption").textContent = sizes + edges;
}

/** Only the edges of one node, and its rows of the table. */
function highlight(object, v) {
  for (const line of $("graph-svg").querySelectorAll("line")) {
    const own = v === null || +line.dataset.v === v || +line.dataset.u === v;
    line.setAttribute("stroke-opacity", own ? line.dataset.opacity : 0.02);
  }
  for (const row of $("nodes").querySelectorAll("tr[data-node]")) row.style.opacity = v === null || +row.dataset.node === v ? 1 : 0.35;
}

/** W as a picture: row v receives, column u sends. */
function renderMatrix(object) {
  const canvas = $("matrix"), n = object.nodes.length, ctx = canvas.getContext("2d");
  canvas.width = canvas.height = n;
  canvas.style.width = `${Math.min(300, 40 * n)}px`;
  const range = extremes(object.weights.filter((weight) => weight !== 0));
  const pixels = ctx.createImageData(n, n);
  object.weights.forEach((weight, i) => {
    const none = Math.floor(i / n) === i % n || weight === 0;
    pixels.data.set(none ? [128, 128, 128, 40] : heatOf(share(weight, range)), 4 * i);
  });
  ctx.putImageData(pixels, 0, 0);
  const caption = `W of Eq. 3, ${fixed(range[0], 2)} (dark) to ${fixed(range[1], 2)} (light): row receives, column sends.`;
  $("matrix-caption").textContent = caption;
  canvas.onmouseleave = () => ($("matrix-caption").textContent = caption);
  canvas.onmousemove = (event) => {
    const [u, v] = cellAt(event, n);
    $("matrix-caption").textContent = `${nodeName(object.nodes[u], u)} → ${nodeName(object.nodes[v], v)}: ${fixed(object.weights[v * n + u])}`;
  };
}

/** Dark blue over red to light yellow for 0 to 1, as RGBA. */
function heatOf(value) {
  const stops = [[20, 16, 60], [96, 28, 110], [190, 52, 85], [246, 132, 34], [252, 240, 160]];
  const place = clamp(value, 1) * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(place));
  return [0, 1, 2].map((c) => Math.round(stops[i][c] + (place - i) * (stops[i + 1][c] - stops[i][c]))).concat(255);
}

/** Nodes by their total, with the terms that it is the sum of. */
function renderNodes(detail, object, image) {
  const weights = { box: detail.lambda1, mask: 1 - detail.lambda1, gate: detail.quality };
  const parts = (node) => ({ box: weights.box * node.box_iou, mask: weights.mask * node.mask_iou, gate: weights.gate * (node.gate ?? 0) });
  const most = Math.max(1e-9, weights.box + weights.mask + weights.gate);
  const gated = weights.gate > 0;
  const names = ["", "", "node", "score", `IoU(B, p)`, `IoU(M, Q)`, "gate", "total", "sum of the terms"];
  const head = make("tr", {}, ...names.map((name, i) => make("th", { class: i > 2 && i < 8 ? "number" : "" }, name)));
  head.children[0].textContent = "proposal";
  head.children[1].textContent = "mask";
  const order = object.nodes.map((_, v) => v).sort((a, b) => object.nodes[b].total - object.nodes[a].total);
  const window_ = padded(boundsOf(object.nodes.flatMap((node) => [node.mask, node.proposal])), 0.1);
  const rows = order.map((v) => {
    const node = object.nodes[v], terms = parts(node);
    const bars = TERMS.map((term) => make("i", { class: term, style: `width:${(100 * Math.max(0, terms[term])) / most}%`, title: `${term} ${fixed(terms[term])}` }));
    const numbers = [node.score, node.box_iou, node.mask_iou, node.gate, node.total].map((value) => make("td", { class: "number" }, fixed(value)));
    const thumbs = [["proposal", COLOURS.proposals], ["mask", colourOf(object.id)]].map(([name, colour]) => make("td", {}, nodeThumb(image, window_, node[name], colour)));
    const hover = { onmouseenter: () => highlight(object, v), onmouseleave: () => highlight(object, null) };
    return make("tr", { "data-node": v, class: v === object.selected ? "selected" : "", ...hover }, ...thumbs, make("td", { title: originOf(node) }, nodeName(node, v)), ...numbers, make("td", {}, make("div", { class: "bar" }, ...bars)));
  });
  $("nodes").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  const terms = [make("b", { class: "box" }, `${fixed(weights.box, 2)} IoU(B(M), p)`), " + ", make("b", { class: "mask" }, `${fixed(weights.mask, 2)} IoU(M, Q)`)];
  if (gated) terms.push(" + ", make("b", { class: "gate" }, `${fixed(weights.gate, 2)} gate`));
  $("formula").replaceChildren("total = ", ...terms, gated ? " (Eq. 6 and the learned term); the highest is selected." : " (Eq. 6); the highest is selected.");
}

/** A box grown by a share of its size; something to look at where there is none. */
function padded(box, share) {
  const [height, width] = state.sequence.size;
  if (!box) return [0, 0, width, height];
  const [dx, dy] = [(box[2] - box[0]) * share + 4, (box[3] - box[1]) * share + 4];
  return [Math.max(0, box[0] - dx), Math.max(0, box[1] - dy), Math.min(width, box[2] + dx), Math.min(height, box[3] + dy)];
}

function nodeThumb(image, [x0, y0, x1, y1], shape, colour) {
  const scale = Math.min(60 / (y1 - y0), 110 / (x1 - x0));
  const [width, height] = [x1 - x0, y1 - y0].map((length) => Math.max(16, Math.round(scale * length)));
  const canvas = make("canvas", { style: `width:${width}px;height:${height}px` });
  const ctx = drawWindow(canvas, [x0, y0, x1, y1], 2 * width, 2 * height, image), unit = (x1 - x0) / canvas.width;
  ctx.globalAlpha = 0.45;
  fillMask(ctx, shape, colour);
  ctx.globalAlpha = 1;
  fillMask(ctx, shape, null, colour, 2 * unit);
  return canvas;
}
