// Outlines of masks and everything else that is drawn over a frame.

/** A mask as a path, filled by the even-odd rule; its contours go through the centres of pixels. */
function pathOf(shape) {
  const path = new Path2D();
  for (const points of shape || []) {
    if (points.length <= 4) {
      path.rect(points[0], points[1], 1, 1);
      continue;
    }
    path.moveTo(points[0] + 0.5, points[1] + 0.5);
    for (let i = 2; i < points.length; i += 2) path.lineTo(points[i] + 0.5, points[i + 1] + 0.5);
    path.closePath();
  }
  return path;
}

/** Centre of mass of a mask, null for an empty one. Holes turn the other way, so their area counts against it. */
function centroidOf(shape) {
  let area = 0, x = 0, y = 0, count = 0, sx = 0, sy = 0;
  for (const points of shape) {
    for (let i = 0; i < points.length; i += 2) {
      const j = (i + 2) % points.length;
      const cross = points[i] * points[j + 1] - points[j] * points[i + 1];
      area += cross;
      x += (points[i] + points[j]) * cross;
      y += (points[i + 1] + points[j + 1]) * cross;
      sx += points[i];
      sy += points[i + 1];
      count += 1;
    }
  }
  if (!count) return null;
  return Math.abs(area) > 1 ? [x / (3 * area), y / (3 * area)] : [sx / count, sy / count];
}

/** Box (x0, y0, x1, y1) around several shapes, null where all are empty. */
function boundsOf(shapes) {
  let box = null;
  for (const shape of shapes) for (const points of shape || []) for (let i = 0; i < points.length; i += 2) {
    const [x, y] = [points[i], points[i + 1]];
    box = box ? [Math.min(box[0], x), Math.min(box[1], y), Math.max(box[2], x), Math.max(box[3], y)] : [x, y, x, y];
  }
  return box;
}

function fillMask(ctx, shape, fill, stroke, width, dash = []) {
  const path = pathOf(shape);
  if (fill) {
    ctx.fillStyle = fill;
    ctx.fill(path, "evenodd");
  }
  if (stroke) {
    ctx.strokeStyle = stroke;
    ctx.lineWidth = width;
    ctx.lineJoin = "round";
    ctx.setLineDash(dash);
    ctx.stroke(path);
    ctx.setLineDash([]);
  }
}

/** Shows a window (x0, y0, x1, y1) of the frame on a canvas whose coordinates become those of masks. */
function drawWindow(canvas, window_, width, height, image) {
  const [h, w] = state.sequence.size, ctx = canvas.getContext("2d");
  [canvas.width, canvas.height] = [width, height].map((side) => Math.max(1, Math.round(side)));
  ctx.fillStyle = "#30343a";
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  lookAt(ctx, window_);
  if (image) ctx.drawImage(image, 0, 0, w, h);
  return ctx;
}

function lookAt(ctx, [x0, y0, x1, y1]) {
  const [sx, sy] = [ctx.canvas.width / (x1 - x0), ctx.canvas.height / (y1 - y0)];
  ctx.setTransform(sx, 0, 0, sy, -x0 * sx, -y0 * sy);
}

const COLOURS = { truth: "#ffffff", proposals: "#ffc53d", q: "#35d0e6", graph: "#ffffff", extra: "#ff3dd1", missed: "#35a7ff" };

function drawResult(ctx, masks, unit) {
  for (const [id, shape] of Object.entries(masks)) fillMask(ctx, shape, colourOf(+id, 0.4), colourOf(+id), 1.5 * unit);
}

function drawTruth(ctx, masks, unit) {
  for (const shape of Object.values(masks || {})) {
    fillMask(ctx, shape, null, "rgb(0 0 0 / .65)", 3.4 * unit);
    fillMask(ctx, shape, null, COLOURS.truth, 1.6 * unit);
  }
}

/** What the result has too much and what it lacks, in two colours. */
function drawErrors(ctx, result, truth) {
  if (!truth) return;
  const { width, height } = ctx.canvas;
  const parts = [[result, truth, COLOURS.extra], [truth, result, COLOURS.missed]];
  for (const [masks, without, colour] of parts) for (const id of Object.keys(masks)) {
    const layer = new OffscreenCanvas(width, height).getContext("2d");
    layer.setTransform(ctx.getTransform());
    fillMask(layer, masks[id], colour);
    layer.globalCompositeOperation = "destination-out";
    fillMask(layer, without[id] || [], "#000");
    ctx.save();
    ctx.resetTransform();
    ctx.globalAlpha = 0.8;
    ctx.drawImage(layer.canvas, 0, 0);
    ctx.restore();
  }
}

function drawProposals(ctx, detail, unit) {
  const all = [...(detail.proposals || []), ...detail.objects.flatMap((object) => object.nodes)];
  for (const { proposal } of all) fillMask(ctx, proposal, null, "rgb(0 0 0 / .45)", 2.2 * unit);
  for (const { proposal } of all) fillMask(ctx, proposal, null, COLOURS.proposals, 1.1 * unit);
  const taken = [];
  ctx.font = `${9 * unit}px system-ui, "DejaVu Sans", sans-serif`;
  for (const { proposal, score, origin } of all.sort((a, b) => b.score - a.score)) {
    const box = boundsOf([proposal]);
    if (box) drawLabel(ctx, `${fixed(score, 2)}${origin ? ` ${origin}` : ""}`, box, taken, unit);
  }
}

/** A label at the top of a box, below those that are there already. */
function drawLabel(ctx, text, box, taken, unit) {
  const width = ctx.measureText(text).width + 6 * unit, height = 12 * unit;
  const x = Math.min(box[2] + 3 * unit, ctx.canvas.width / ctx.getTransform().a - width);
  let y = Math.max(0, box[1]);
  const hits = (t) => x < t[0] + t[2] && t[0] < x + width && y < t[1] + height && t[1] < y + height;
  for (let tries = 0; tries < 40 && taken.some(hits); tries++) y += height + unit;
  taken.push([x, y, width]);
  ctx.fillStyle = "rgb(0 0 0 / .65)";
  ctx.fillRect(x, y, width, height);
  ctx.fillStyle = COLOURS.proposals;
  ctx.fillText(text, x + 3 * unit, y + 9 * unit);
}

function drawQ(ctx, detail, unit) {
  for (const object of detail.objects) {
    fillMask(ctx, object.q, "rgb(53 208 230 / .22)", COLOURS.q, 1.6 * unit, [5 * unit, 3 * unit]);
    const [x0, y0, x1, y1] = object.p;
    ctx.setLineDash([2 * unit, 3 * unit]);
    ctx.strokeRect(x0, y0, x1 - x0, y1 - y0);
    ctx.setLineDash([]);
  }
}

/** Nodes at the centroids of their masks, edges as wide as their weights. */
function drawGraph(ctx, detail, unit) {
  for (const object of detail.objects) {
    const n = object.nodes.length, centres = object.nodes.map((node) => centroidOf(node.mask));
    const range = weightRange(object);
    for (let v = 0; v < n; v++) for (let u = 0; u < v; u++) {
      const weight = meanWeight(object, v, u);
      if (!centres[v] || !centres[u] || weight === 0) continue;
      ctx.strokeStyle = "rgb(255 255 255 / .55)";
      ctx.lineWidth = edgeWidth(weight, range) * 0.8 * unit;
      ctx.beginPath();
      ctx.moveTo(...centres[v]);
      ctx.lineTo(...centres[u]);
      ctx.stroke();
    }
    centres.forEach((centre, v) => {
      if (!centre) return;
      ctx.beginPath();
      ctx.arc(...centre, (v === object.selected ? 6 : 4) * unit, 0, 2 * Math.PI);
      ctx.fillStyle = v === object.selected ? colourOf(object.id) : "#fff";
      ctx.fill();
      ctx.strokeStyle = "#000";
      ctx.lineWidth = unit;
      ctx.stroke();
    });
  }
}
