// Start, keys, and the parts that do not change with the frame.

const KEYS = [
  ["← →", "previous, next frame"],
  ["Page ↑ ↓", "ten frames back, on"],
  ["Home End", "first, last frame"],
  ["Space", "play, stop"],
  ["w", "next of the worst frames"],
  ["r t e p q g", "result, ground truth, errors, proposals, Q with p, graph"],
  ["o", "next object"],
  ["s", "next sequence"],
  ["a", "attention of the whole object"],
  ["?", "this help, Esc closes it"],
];

const actions = {
  ArrowLeft: () => step(-1), ArrowRight: () => step(1), PageUp: () => step(-10), PageDown: () => step(10),
  Home: () => step(-Infinity), End: () => step(Infinity), " ": play, w: () => (stop(), nextWorst()),
  o: nextObject, s: nextSequence, a: () => ((state.cell = null), renderDetails()), "?": toggleHelp,
};

function step(by) {
  stop();
  const last = state.sequence.frames.length - 1;
  showFrame(clamp(state.frame + by, last));
}

function nextObject() {
  const ids = Object.keys(state.sequence.scores).map(Number);
  if (!ids.length) return;
  state.object = ids[(ids.indexOf(state.object) + 1) % ids.length];
  renderTimeline();
  renderDetails();
}

function nextSequence() {
  showSequence((state.number + 1) % index.sequences.length);
}

function toggleHelp() {
  const help = $("help");
  if (help.open) help.close();
  else help.showModal();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  if (event.key === " " && ["BUTTON", "A"].includes(event.target.tagName)) return;
  if ($("help").open && event.key !== "?") return;
  const overlay = overlays.find((o) => o.key === event.key);
  const action = overlay ? () => toggle(overlay) : actions[event.key];
  if (!action || (!state.sequence && event.key !== "?")) return;
  event.preventDefault();
  action();
}

function renderNav() {
  const sections = [...document.querySelectorAll("section")].filter((section) => section.dataset.known);
  $("nav").replaceChildren(...sections.map((s) => make("a", { href: `#${s.id}` }, s.dataset.title)));
}

function know(id) {
  $(id).hidden = false;
  $(id).dataset.known = "yes";
}

function connect() {
  document.addEventListener("keydown", onKey);
  // A button that was clicked keeps no focus, so that the space bar plays.
  document.addEventListener("click", (event) => event.detail && event.target.closest("button")?.blur());
  $("play").addEventListener("click", play);
  $("slider").addEventListener("input", () => (stop(), showFrame(+$("slider").value)));
  $("sequence").addEventListener("change", () => showSequence(+$("sequence").value));
  $("whole").addEventListener("click", actions.a);
  $("help-button").addEventListener("click", toggleHelp);
  $("help-close").addEventListener("click", toggleHelp);
  let resized;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => (state.sequence && renderTimeline(), renderCurves()), 150);
  });
}

async function start() {
  connect();
  $("keys").replaceChildren(...KEYS.flatMap(([keys, text]) => [make("dt", {}, ...keys.split(" ").flatMap((key) => [make("kbd", {}, key), " "])), make("dd", {}, text)]));
  if ($("numbers").querySelector("table, img")) know("numbers");
  if (index.curves.length) know("training");
  renderCurves();
  if (index.sequences.length) {
    know("video");
    $("sequence").replaceChildren(...index.sequences.map(({ name }, i) => make("option", { value: i }, name)));
    $("sequence-label").hidden = index.sequences.length < 2;
    await showSequence(0);
    await renderDetails();
    for (const id of ["graph", "memory", "strips"]) if (!$(id).hidden) know(id);
  }
  for (const { name, notes } of index.sequences) $("notes").append(...notes.map((note) => make("li", {}, `${name}: ${note}`)));
  renderNav();
  document.body.dataset.ready = "yes";
}

start().catch((error) => {
  const old = typeof DecompressionStream === "undefined" ? " This browser is too old for it: use one of 2023 or later." : "";
  $("notes").append(make("li", {}, `The page cannot be shown (${error.message}).${old}`));
  throw error;
});
