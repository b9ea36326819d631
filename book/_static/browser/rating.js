// The paper's rubric, filled in by the reader. Ratings stay in this browser until they are exported.

import { el } from "./dom.js";

const KEY = "sae-book-ratings";
const HELD = "This browser does not let the page keep anything; export the ratings before you leave, or they are lost.";
let held = null; // all ratings, when the browser does not take them

function stored() {
  const text = localStorage.getItem(KEY) ?? "[]";
  try {
    const found = JSON.parse(text);
    if (Array.isArray(found)) return found.filter((rating) => typeof rating?.unit === "string");
  } catch { /* Damaged, which is dealt with below. */ }
  // The next rating will take its place, and somebody may still be able to read it.
  localStorage.setItem(`${KEY}-damaged`, text);
  return [];
}

/** All ratings given in this browser. */
function kept() {
  if (held) return held;
  try {
    return stored();
  } catch {
    return [];
  }
}

function keep(ratings) {
  try {
    localStorage.setItem(KEY, JSON.stringify(ratings));
    held = null;
  } catch {
    held = ratings;
  }
}

/** The form for one unit; `done` is called once a rating is given. */
export function form(contents, set, unit, blind, done) {
  const name = `${set.name}/${unit}`;
  // Of other runs the same number is another feature.
  const isOfThis = (rating) => rating.unit === name && rating.runs === contents.runs && rating.blind === blind;
  const old = kept().find(isOfThis);
  const status = el("p", { role: "status" }, held ? HELD : "");
  const items = contents.rubric.map(([name, most, question]) => el("fieldset", {}, el("legend", {}, question),
    Array.from({ length: most + 1 }, (_, value) => el("label", {},
      el("input", { type: "radio", name, value, required: true, checked: old?.[name] === value }), ` ${value}`))));
  const note = el("input", { type: "text", name: "explanation", maxlength: 300, value: old?.explanation ?? "" });
  const submit = (event) => {
    event.preventDefault();
    const given = new FormData(event.target);
    const rating = { unit: name, kind: set.kind, scale: contents.scale, runs: contents.runs, blind, explanation: note.value };
    for (const [name] of contents.rubric) rating[name] = Number(given.get(name));
    rating.total = contents.rubric.reduce((sum, [name]) => sum + rating[name], 0);
    keep([...kept().filter((other) => !isOfThis(other)), rating]);
    const most = contents.rubric.reduce((sum, [, mark]) => sum + mark, 0);
    status.textContent = held ? HELD : `Kept: ${rating.total} of ${most}.`;
    done?.();
  };
  return el("form", { class: "sb-rating", onsubmit: submit }, items,
    el("label", {}, "Your explanation ", note),
    el("p", {}, el("button", { type: "submit" }, blind ? "Keep and show the next" : "Keep this rating"), " ", exporter(contents)), status);
}

/** A button that gives all ratings as a JSON file. */
export function exporter(contents) {
  const give = () => {
    const rubric = Object.fromEntries(contents.rubric);
    const content = { format: 1, tokens: contents.tokens, rubric, ratings: kept() };
    const address = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
    el("a", { href: address, download: "ratings.json" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  };
  return el("button", { type: "button", onclick: give }, "Export ratings");
}

/** Numbers in [0, 1) that are the same for the same seed (mulberry32). */
function draws(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The unit to be rated blind next: as often a feature as a neuron, in an order drawn once for all raters. */
export function nextBlind(contents, pools) {
  const draw = draws(0);
  const rated = new Set(kept().filter((rating) => rating.blind && rating.runs === contents.runs).map((rating) => rating.unit));
  for (let turn = 0; turn < 100_000; turn++) {
    const { set, units } = pools[Math.floor(draw() * pools.length)];
    const unit = units[Math.floor(draw() * units.length)];
    if (unit !== undefined && !rated.has(`${set.name}/${unit}`)) return { set, unit };
  }
  return null;
}
