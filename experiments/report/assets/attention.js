// Where the memory is looked at (Eq. 7): from the whole object, or from one place of the current frame.

async function renderMemorySection(detail) {
  const { sequence, frame } = state;
  const object = objectOf(detail), has = Boolean(object && object.memory.length);
  $("memory").hidden = !traced(sequence);
  if ($("memory").hidden) return;
  $("memory-where").textContent = object ? `frame ${sequence.frames[frame]}, object ${object.id}` : `frame ${sequence.frames[frame]}`;
  $("memory-note").textContent = object ? (has ? "" : "This object has no memory, or the temporal graph is off.") : missingDetail(sequence, frame);
  $("memory-body").hidden = !has;
  if (!has) return;
  const g = detail.cells[0];
  if (!object.cells || (state.cell && state.cell[0] >= g)) state.cell = null;
  $("whole").setAttribute("aria-pressed", String(state.cell === null));
  const image = await pictureOf(sequence, frame);
  if (sequence !== state.sequence || frame !== state.frame) return;
  renderQuery(detail, object, image);
  await renderMemories(detail, object);
}

/** A window, or the whole frame where it was not noted. */
function known(window_) {
  const [height, width] = state.sequence.size;
  return window_[2] > window_[0] && window_[3] > window_[1] ? window_ : [0, 0, width, height];
}

const ratioOf = ([x0, y0, x1, y1]) => (y1 - y0) / (x1 - x0);

function renderQuery(detail, object, image) {
  const canvas = $("query"), g = detail.cells[0];
  const ctx = drawWindow(canvas, known(object.window), 520, 520 * ratioOf(known(object.window)), image);
  fillMask(ctx, object.refined, null, colourOf(object.id), (object.window[2] - object.window[0]) / 200);
  ctx.resetTransform();
  const [w, h] = [canvas.width / g, canvas.height / g];
  ctx.strokeStyle = "rgb(255 255 255 / .3)";
  ctx.lineWidth = 1;
  if (object.cells) for (let i = 1; i < g; i++) {
    ctx.strokeRect(i * w, -1, 0, canvas.height + 2);
    ctx.strokeRect(-1, i * h, canvas.width + 2, 0);
  }
  if (state.cell) {
    ctx.strokeStyle = "#fff";
    ctx.lineWidth = 4;
    ctx.strokeRect(state.cell[0] * w, state.cell[1] * h, w, h);
  }
  const hint = object.cells ? "Click a place, or use the arrow keys here, to see where it looks." : "Single places are not kept of this frame.";
  $("query-caption").textContent = `The window of the keys. ${hint}`;
  canvas.onclick = (event) => chooseCell(cellAt(event, g), g, object);
  canvas.onkeydown = (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const [x, y] = state.cell || [Math.floor(g / 2), Math.floor(g / 2)];
    chooseCell([x + step[0], y + step[1]], g, object);
  };
}

function chooseCell([x, y], g, object) {
  if (!object.cells) return;
  state.cell = [clamp(x, g - 1), clamp(y, g - 1)];
  renderDetails();
}

async function renderMemories(detail, object) {
  const { sequence } = state, [g, G] = detail.cells;
  const whole = state.cell === null, side = whole ? object.grid : G;
  const items = await Promise.all(object.memory.map(async (name, r) => {
    const place = sequence.place.get(name);
    const image = place === undefined ? null : await pictureOf(sequence, place);
    const start = whole ? 0 : (state.cell[1] * g + state.cell[0]) * G * G;
    const heat = (whole ? object.attention[r] : object.cells[r]).slice(start, start + side * side);
    const canvas = make("canvas"), window_ = known(object.memory_windows[r]);
    const ctx = drawWindow(canvas, window_, 340, 340 * ratioOf(window_), image);
    drawHeat(ctx, heat, side);
    const shape = place === undefined ? null : sequence.outlines.result[place][object.id];
    lookAt(ctx, window_);
    fillMask(ctx, shape, null, "rgb(255 255 255 / .8)", (window_[2] - window_[0]) / 250);
    const open = place === undefined ? {} : { onclick: () => showFrame(place), title: `Go to frame ${name}` };
    return make("figure", {}, make("button", { type: "button", ...open }, canvas), make("figcaption", {}, `frame ${name}`));
  }));
  $("memories").replaceChildren(...items);
  $("memories").dataset.shown = `${sequence.frames[state.frame]} ${whole ? "object" : state.cell.join(" ")}`;
}

/** Attention over a darkened picture: none is dark, much is bright. */
function drawHeat(ctx, values, side) {
  const heat = new OffscreenCanvas(side, side), pixels = new ImageData(side, side);
  values.forEach((value, j) => {
    const [r, g, b] = heatOf(value / 255);
    pixels.data.set([r, g, b, 130 + Math.round((110 * value) / 255)], 4 * j);
  });
  heat.getContext("2d").putImageData(pixels, 0, 0);
  ctx.resetTransform();
  ctx.drawImage(heat, 0, 0, ctx.canvas.width, ctx.canvas.height);
}
