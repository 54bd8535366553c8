// What the page holds, unpacked when it is needed.

const $ = (id) => document.getElementById(id);
const index = JSON.parse($("index").textContent);
const opened = new Map();

/** Bytes of text that Python packed by zlib and base64. */
async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function inflateJson(text) {
  return JSON.parse(new TextDecoder().decode(await inflate(text)));
}

/** A sequence with its outlines; the rest of it is unpacked frame by frame. */
async function openSequence(number) {
  if (!opened.has(number)) {
    const element = $(`sequence-${number}`);
    const sequence = JSON.parse(element.textContent);
    element.remove(); // its text would be held twice
    sequence.outlines = await inflateJson(sequence.outlines);
    sequence.images = new Map();
    sequence.unpacked = new Map();
    sequence.place = new Map(sequence.frames.map((name, i) => [name, i]));
    opened.set(number, sequence);
  }
  return opened.get(number);
}

/** The newest values only, as all frames decoded would take a gigabyte. */
function remember(map, key, value, most) {
  map.set(key, value);
  if (map.size > most) map.delete(map.keys().next().value);
  return value;
}

/** The picture of a frame, null where there is none. */
function pictureOf(sequence, i) {
  if (!sequence.pictures[i]) return Promise.resolve(null);
  if (sequence.images.has(i)) return sequence.images.get(i);
  const image = new Image();
  image.src = `data:image/jpeg;base64,${sequence.pictures[i]}`;
  return remember(sequence.images, i, image.decode().then(() => image), 40);
}

/** How a frame came about, null where nothing is known. */
function detailOf(sequence, i) {
  if (!sequence.details[i]) return Promise.resolve(null);
  if (sequence.unpacked.has(i)) return sequence.unpacked.get(i);
  return remember(sequence.unpacked, i, unpackDetail(sequence, i), 12);
}

async function unpackDetail(sequence, i) {
  const detail = await inflateJson(sequence.details[i]);
  const cells = sequence.cells[i] ? await inflate(sequence.cells[i]) : null;
  if (!cells) return detail;
  const [g, G] = detail.cells, each = g * g * G * G;
  let start = 0;
  for (const object of detail.objects) object.cells = object.memory.map(() => cells.subarray(start, (start += each)));
  return detail;
}

/** Colour of an object as DAVIS numbers them, lighter so that it shows on dark pictures. */
function colourOf(id, alpha = 1) {
  const rgb = [0, 0, 0];
  for (let k = 0; k < 8; k++) for (let c = 0; c < 3; c++) rgb[c] |= ((id >> (3 * k + c)) & 1) << (7 - k);
  const [r, g, b] = rgb.map((value) => Math.min(255, Math.round(value * 1.6) + 30));
  return `rgb(${r} ${g} ${b} / ${alpha})`;
}

const percent = (value) => (value === null || value === undefined ? "–" : value.toFixed(1));
const fixed = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));

/** Least and greatest of some values, and where a value lies between them. */
const extremes = (values) => (values.length ? [Math.min(...values), Math.max(...values)] : [0, 0]);
const share = (value, [low, high]) => (high > low ? (value - low) / (high - low) : 0.5);
const clamp = (value, most) => Math.max(0, Math.min(most, value));
const swatch = (colour) => make("span", { class: "swatch", style: `background:${colour}` });

/** Column and row of the cell of a grid that the pointer is in. */
function cellAt(event, columns, rows = columns) {
  const box = event.currentTarget.getBoundingClientRect();
  const at = (place, length, count) => clamp(Math.floor((place / length) * count), count - 1);
  return [at(event.clientX - box.left, box.width, columns), at(event.clientY - box.top, box.height, rows)];
}

/** An element with attributes and children; text is never read as HTML. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "line", "circle", "text", "path", "rect", "title"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
