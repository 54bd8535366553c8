// The frame that is shown, its overlays, and what goes with it.

const state = { sequence: null, number: 0, frame: 0, object: null, cell: null, hover: null, timer: null };
const FRAMES_A_SECOND = 12;

const overlays = [
  { name: "result", key: "r", label: "Result", on: true, colour: colourOf(1), has: (s) => s.outlines.result.some((m) => Object.keys(m).length) },
  { name: "truth", key: "t", label: "Ground truth", on: false, colour: COLOURS.truth, has: (s) => s.outlines.truth.some((m) => m) },
  { name: "errors", key: "e", label: "Errors", on: false, colour: COLOURS.extra, has: (s) => s.annotated },
  { name: "proposals", key: "p", label: "Proposals", on: false, colour: COLOURS.proposals, has: (s) => s.details.some((d) => d) },
  { name: "q", key: "q", label: "Q and p", on: false, colour: COLOURS.q, has: traced },
  { name: "graph", key: "g", label: "Graph", on: false, colour: COLOURS.graph, has: traced },
];
const isOn = (name) => overlays.some((o) => o.name === name && o.on && !o.missing);

/** Whether it is known how frames came about, rather than their proposals alone. */
function traced(sequence) {
  return Object.keys(sequence.scores).length > 0 && sequence.details.some((d) => d);
}

/** Shows a sequence from its worst frame on. */
async function showSequence(number) {
  stop();
  state.number = number;
  state.sequence = await openSequence(number);
  const { sequence } = state;
  state.object = +Object.keys(sequence.scores)[0] || null;
  state.cell = null;
  $("sequence").value = String(number);
  $("slider").max = sequence.frames.length - 1;
  for (const overlay of overlays) overlay.missing = !overlay.has(sequence);
  if (!Object.keys(sequence.scores).length) overlays.find((o) => o.name === "proposals").on = true;
  renderToggles();
  renderMeans();
  renderWorst();
  renderStrip();
  await showFrame(sequence.worst.length ? sequence.worst[0][0] : 0);
}

/** Shows a frame; what takes longer follows when the frame stays. */
async function showFrame(i) {
  const { sequence } = state;
  state.frame = clamp(i, sequence.frames.length - 1);
  $("slider").value = state.frame;
  $("position").textContent = `${sequence.frames[state.frame]}  (${state.frame + 1} / ${sequence.frames.length})`;
  renderObjects();
  renderTimeline();
  for (const item of $("worst").children) {
    item.firstChild.setAttribute("aria-current", String(+item.dataset.frame === state.frame));
  }
  await renderFrame();
  clearTimeout(state.later);
  if (!state.timer) state.later = setTimeout(renderDetails, 60);
  for (let k = 1; k <= 3; k++) pictureOf(sequence, state.frame + k);
}

async function renderFrame() {
  const { sequence, frame } = state;
  const needed = ["proposals", "q", "graph"].some(isOn);
  const [image, detail] = await Promise.all([pictureOf(sequence, frame), needed ? detailOf(sequence, frame) : null]);
  if (sequence !== state.sequence || frame !== state.frame) return;
  const canvas = $("frame"), [height, width] = sequence.size, scale = Math.max(1, 1280 / width), unit = width / 640;
  const ctx = drawWindow(canvas, [0, 0, width, height], width * scale, height * scale, image);
  const result = sequence.outlines.result[frame], truth = sequence.outlines.truth[frame];
  if (isOn("result")) drawResult(ctx, result, unit);
  if (isOn("errors")) drawErrors(ctx, result, truth);
  if (detail && isOn("q")) drawQ(ctx, detail, unit);
  if (detail && isOn("proposals")) drawProposals(ctx, detail, unit);
  if (isOn("truth")) drawTruth(ctx, truth, unit);
  if (detail && isOn("graph")) drawGraph(ctx, detail, unit);
  canvas.dataset.shown = [sequence.frames[frame], ...overlays.filter((o) => isOn(o.name)).map((o) => o.key)].join(" ");
}

/** The parts below the video, of the frame that is shown now. */
async function renderDetails() {
  const { sequence, frame } = state;
  const detail = await detailOf(sequence, frame);
  if (sequence !== state.sequence || frame !== state.frame) return;
  await renderGraphSection(detail);
  await renderMemorySection(detail);
}

function renderToggles() {
  $("toggles").replaceChildren(...overlays.map((overlay) => {
    const colours = overlay.name === "errors" ? [COLOURS.extra, COLOURS.missed] : [overlay.colour];
    const attributes = { type: "button", "aria-pressed": String(overlay.on && !overlay.missing), "data-overlay": overlay.name };
    const button = make("button", attributes, ...colours.map(swatch), `${overlay.label} `, make("kbd", {}, overlay.key));
    button.disabled = overlay.missing;
    if (overlay.missing) button.title = "Not in this folder";
    if (overlay.name === "errors") button.title = "Pink: too much. Blue: missed.";
    button.addEventListener("click", () => toggle(overlay));
    return button;
  }));
}

function toggle(overlay) {
  if (overlay.missing) return;
  overlay.on = !overlay.on;
  document.querySelector(`[data-overlay=${overlay.name}]`).setAttribute("aria-pressed", String(overlay.on));
  renderFrame();
}

function renderMeans() {
  const { means, annotated, confidence } = state.sequence;
  $("means").textContent = means ? `J ${percent(means.J)}  F ${percent(means.F)}  G ${percent(means.G)} over the sequence` : "";
  const order = annotated ? "Worst frames first" : Object.keys(confidence).length ? "Least certain frames first" : "Lowest scores of Eq. 6 first";
  $("worst-title").textContent = state.sequence.worst.length ? order : "";
  $("worst-title").title = "Neighbours of a frame of the list are left out";
}

/** What is known of an object over time: J and F, or how certain its masks are. */
function seriesOf(sequence, id) {
  if (sequence.annotated) return [{ name: "j", label: "J", values: sequence.scores[id].J }, { name: "f", label: "F", values: sequence.scores[id].F }];
  return sequence.confidence[id] ? [{ name: "j", label: "confidence", values: sequence.confidence[id] }] : [];
}

/** The same in this frame. */
function renderObjects() {
  const { sequence, frame } = state;
  const ids = Object.keys(sequence.scores).filter((id) => seriesOf(sequence, id).length);
  const rows = ids.map((id) => {
    const series = seriesOf(sequence, id);
    const isGiven = frame <= (sequence.given[id] ?? -1);
    const values = isGiven ? [make("td", { class: "number", colspan: series.length }, "given")] : series.map((s) => make("td", { class: "number" }, percent(s.values[frame])));
    return make("tr", {}, make("td", {}, swatch(colourOf(+id)), `object ${id}`), ...values);
  });
  const labels = rows.length ? seriesOf(sequence, ids[0]).map(({ label }) => make("th", { class: "number" }, label)) : [];
  $("objects").replaceChildren(...(rows.length ? [make("tr", {}, make("th", {}, "this frame"), ...labels), ...rows] : []));
}

function renderWorst() {
  const { sequence } = state;
  $("worst").replaceChildren(...sequence.worst.map(([frame, id]) => {
    const text = seriesOf(sequence, id).map(({ label, values }) => `${label} ${percent(values[frame])}`).join("  ");
    const many = Object.keys(sequence.scores).length > 1 ? `object ${id}  ` : "";
    const label = make("span", {}, sequence.frames[frame], make("small", {}, many + text));
    const pick = () => ((state.object = id), stop(), showFrame(frame));
    const thumb = make("canvas");
    drawThumb(thumb, sequence, frame, 168);
    return make("li", { "data-frame": frame }, make("button", { type: "button", onclick: pick }, thumb, label));
  }));
}

/** A small frame with its masks, of the result or of the annotation. */
async function drawThumb(canvas, sequence, frame, side, masks = sequence.outlines.result) {
  const [height, width] = sequence.size, image = await pictureOf(sequence, frame);
  const ctx = drawWindow(canvas, [0, 0, width, height], side, (side * height) / width, image);
  drawResult(ctx, masks[frame] || {}, (2 * width) / side);
  return canvas;
}

/** Scores over time, a chart an object. */
function renderTimeline() {
  const { sequence } = state, container = $("timeline");
  const ids = Object.keys(sequence.scores).filter((id) => seriesOf(sequence, id).length), width = container.clientWidth || 900;
  const shown = ids.length <= 4 ? ids : ids.filter((id) => +id === state.object);
  const charts = shown.map((id) => {
    const series = seriesOf(sequence, id);
    const mean = (t) => series.reduce((sum, { values }) => sum + (values[t] ?? 0), 0) / series.length;
    const marks = sequence.worst.filter(([, object]) => object === +id).map(([t]) => [t, mean(t)]);
    const last = sequence.frames.length - 1;
    const labels = [...new Set([0, Math.round(last / 4), Math.round(last / 2), Math.round((3 * last) / 4), last])].map((i) => [i, sequence.frames[i]]);
    const options = { width, height: shown.length > 1 ? 110 : 150, range: [0, 100], labels, marks, cursor: state.frame };
    const chart = lineChart({ ...options, series, pick: (i) => (stop(), showFrame(i)) });
    const title = ids.length > 1 ? [make("span", {}, `object ${id}`)] : [];
    const keys = [...series.map(({ name, label }) => [name, label]), ["bad", "● worst"]].map(([name, text]) => make("span", { class: name }, text));
    return make("div", {}, make("div", { class: "legend" }, ...title, ...keys), chart);
  });
  container.replaceChildren(...charts);
}

/** Frames at the moments that matter side by side, the result above its annotation, as one picture to save. */
async function renderStrip() {
  const { sequence } = state, { moments, scores, size, name } = sequence;
  $("strips").hidden = !moments.length;
  if (!moments.length) return;
  const rows = [sequence.outlines.result, sequence.outlines.truth].filter((masks) => masks.some((m) => m));
  const thumbs = await Promise.all(rows.map((masks) => Promise.all(moments.map(([i]) => drawThumb(make("canvas"), sequence, i, 320, masks)))));
  if (sequence !== state.sequence) return;
  const canvas = $("strip"), ctx = canvas.getContext("2d"), step = Math.round((320 * size[0]) / size[1]) + 4;
  [canvas.width, canvas.height] = [324 * moments.length - 4, rows.length * step + 44];
  ctx.fillStyle = "#fff";
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  thumbs.forEach((row, y) => row.forEach((thumb, x) => ctx.drawImage(thumb, 324 * x, 22 + y * step)));
  ctx.fillStyle = "#000";
  ctx.font = '14px "DejaVu Sans", sans-serif';
  ctx.fillText(`${name}: result${rows.length > 1 ? " above, annotation below" : ""}`, 2, 16);
  moments.forEach(([i, reason], x) => {
    const js = Object.values(scores).map(({ J }) => J[i]).filter((j) => j !== null);
    const mean = js.length && reason !== "given" ? `J ${(js.reduce((a, b) => a + b) / js.length).toFixed(0)}` : "";
    ctx.fillText([sequence.frames[i], reason, mean].filter(Boolean).join("   "), 324 * x + 2, canvas.height - 6);
  });
  $("strip-link").href = canvas.toDataURL("image/jpeg", 0.9);
  $("strip-link").download = `${name}-strip.jpg`;
}

function play() {
  if (state.timer) return stop();
  if (state.frame === state.sequence.frames.length - 1) state.frame = -1;
  $("play").textContent = "■";
  $("play").setAttribute("aria-label", "Stop");
  state.timer = setInterval(() => {
    if (state.frame >= state.sequence.frames.length - 1) return stop();
    showFrame(state.frame + 1);
  }, 1000 / FRAMES_A_SECOND);
}

function stop() {
  if (!state.timer) return;
  clearInterval(state.timer);
  state.timer = null;
  $("play").textContent = "▶";
  $("play").setAttribute("aria-label", "Play");
  renderDetails();
}

/** The next frame of the list of the worst. */
function nextWorst() {
  const { worst } = state.sequence;
  if (!worst.length) return;
  const at = worst.findIndex(([frame]) => frame === state.frame);
  const [frame, id] = worst[(at + 1) % worst.length];
  state.object = id;
  showFrame(frame);
}
