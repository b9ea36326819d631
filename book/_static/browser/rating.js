// The paper's rubric, filled in by the reader. Ratings stay in this browser until they are exported.

import { el } from "./dom.js";

const KEY = "sae-book-ratings";

/** Ratings kept here; what is damaged or forbidden reads as none. */
export function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

function keep(ratings) {
  try {
    localStorage.setItem(KEY, JSON.stringify(ratings));
    return true;
  } catch {
    return false;
  }
}

/** The form for one unit; `done` is called with the number of ratings once one is kept. */
export function form(contents, set, unit, blind, done) {
  const old = kept().find((rating) => rating.unit === `${set.name}/${unit}` && rating.scale === contents.scale && rating.blind === blind);
  const status = el("p", { role: "status" });
  const items = contents.rubric.map(([name, most, question]) => el("fieldset", {}, el("legend", {}, question),
    Array.from({ length: most + 1 }, (_, value) => el("label", {},
      el("input", { type: "radio", name, value, required: true, checked: old?.[name] === value }), ` ${value}`))));
  const note = el("input", { type: "text", name: "explanation", maxlength: 300, value: old?.explanation ?? "" });
  const submit = (event) => {
    event.preventDefault();
    const given = new FormData(event.target);
    const rating = { unit: `${set.name}/${unit}`, kind: set.kind, scale: contents.scale, blind, explanation: note.value };
    for (const [name] of contents.rubric) rating[name] = Number(given.get(name));
    rating.total = contents.rubric.reduce((sum, [name]) => sum + rating[name], 0);
    const others = kept().filter((other) => !(other.unit === rating.unit && other.scale === rating.scale && other.blind === blind));
    const stays = keep([...others, rating]);
    const most = contents.rubric.reduce((sum, [, mark]) => sum + mark, 0);
    status.textContent = stays
      ? `Kept: ${rating.total} of ${most}.`
      : "This browser does not let the page keep anything; the rating is lost when you leave.";
    if (stays) done?.(others.length + 1);
  };
  return el("form", { class: "sb-rating", onsubmit: submit }, items,
    el("label", {}, "Your explanation ", note),
    el("p", {}, el("button", { type: "submit" }, blind ? "Keep and show the next" : "Keep this rating"), " ", exporter(contents)), status);
}

/** A button that gives all ratings as a JSON file. */
function exporter(contents) {
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
  const rated = new Set(kept().filter((rating) => rating.blind && rating.scale === contents.scale).map((rating) => rating.unit));
  for (let turn = 0; turn < 100_000; turn++) {
    const { set, units } = pools[Math.floor(draw() * pools.length)];
    const unit = units[Math.floor(draw() * units.length)];
    if (unit !== undefined && !rated.has(`${set.name}/${unit}`)) return { set, unit };
  }
  return null;
}
