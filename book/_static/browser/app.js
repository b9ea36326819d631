// The address decides what is shown: #A/1/3450, #A/neurons/489, #A/1, #text/3/A/1, #map or #rate.

import { atlas, card, expect, index, Missing, setNamed } from "./data.js";
import { panels, silent } from "./card.js";
import { el } from "./dom.js";
import { List } from "./list.js";
import { mapView } from "./map.js";
import { form, nextBlind } from "./rating.js";
import { textView } from "./text.js";

const RARE = 20; // tokens; a unit that fires on fewer has too few examples to be rated
const place = document.getElementById("sae-browser");
const page = el("div", { class: "sb-page" });
const tabs = el("nav", { class: "sb-tabs", "aria-label": "Views" });
let contents, list, split, turn = 0;

function tab(address, text, current) {
  return el("a", { href: `#${address}`, "aria-current": current ? "page" : null }, text);
}

function drawTabs(view) {
  tabs.replaceChildren(...contents.sets.map((set) => tab(set.name, set.name, view === set.name)),
    tab("text", "Text", view === "text"), tab("map", "Map", view === "map"), tab("rate", "Rate blind", view === "rate"));
}

async function showUnit(set, unit) {
  if (unit >= set.n) throw new Error(`there is no ${set.kind} ${set.name}/${unit}; ${set.name} ends at ${set.n - 1}`);
  // The card comes while the list is being made.
  if (unit !== undefined) expect(set, unit);
  await list.open(set);
  unit ??= list.order[0] ?? 0;
  const [columns, found] = await Promise.all([index(set), card(set, unit)]);
  return () => {
    const step = (by, text) => {
      const to = list.beside(unit, by);
      if (to === undefined) return el("span", { class: "sb-end" }, text);
      return el("a", { href: `#${set.name}/${to}`, rel: by > 0 ? "next" : "prev" }, text);
    };
    [1, -1].map((by) => list.beside(unit, by)).filter((to) => to !== undefined).forEach((to) => expect(set, to));
    const name = `${set.name}/${unit}`;
    document.title = `${name} · Feature browser`;
    if (!split.isConnected) page.replaceChildren(split);
    split.replaceChild(el("article", { class: "sb-card", "data-unit": name },
      el("header", {},
        el("h2", { tabindex: -1 }, `${set.kind === "neuron" ? "Neuron" : "Feature"} ${name}`),
        el("p", { class: "sb-steps" }, step(-1, "← previous (k)"), " ", step(1, "next (j) →"))),
      columns.density[unit] ? panels(contents, set, columns, found) : silent(contents),
      el("details", {}, el("summary", {}, "Rate it"), form(contents, set, unit, false))), split.lastChild);
    list.mark(unit);
  };
}

async function showBlind() {
  const names = ["A/1", "A/neurons"].filter((name) => setNamed(contents, name));
  const pools = await Promise.all(names.map(async (name) => {
    const set = setNamed(contents, name);
    const { density } = await index(set);
    return { set, units: density.flatMap((share, unit) => (share * contents.tokens >= RARE ? [unit] : [])) };
  }));
  const next = nextBlind(contents, pools);
  if (!next) return el("p", {}, "Everything is rated.");
  const [columns, found] = await Promise.all([index(next.set), card(next.set, next.unit)]);
  return el("article", { class: "sb-card", "data-unit": "blind" },
    el("h2", { tabindex: -1 }, "A feature or a neuron"),
    el("p", {}, "You are not told which. Look, settle on one explanation, and rate it.",
      " Ratings stay in this browser until you export them."),
    panels(contents, next.set, columns, found, true),
    form(contents, next.set, next.unit, true, () => route(true)));
}

async function view(address) {
  const [first, second, third, fourth] = address.split("/");
  if (first === "map") return ["map", await mapView(contents)];
  if (first === "text") return ["text", await textView(contents, Number(second ?? 0), third ? `${third}/${fourth}` : undefined)];
  if (first === "rate") return ["rate", await showBlind()];
  const set = setNamed(contents, address === "" ? "A/1" : `${first}/${second}`) ?? (address === "" ? contents.sets[0] : null);
  if (!set) throw new Error(`there is no ${address} here; the sets are ${contents.sets.map(({ name }) => name).join(", ")}`);
  if (third !== undefined && !/^\d+$/.test(third)) throw new Error(`there is no ${set.kind} ${third}`);
  return [set.name, await showUnit(set, third === undefined ? undefined : Number(third))];
}

async function route(moved = false) {
  const mine = ++turn;
  let name, shown;
  try {
    [name, shown] = await view(decodeURIComponent(location.hash.slice(1)));
  } catch (error) {
    [name, shown] = ["", trouble(error)];
  }
  // Whoever moved on meanwhile sees only where they went.
  if (mine !== turn) return;
  drawTabs(name);
  // A card takes the place of the card before it, and the list beside them stays as it is.
  if (typeof shown === "function") shown();
  else page.replaceChildren(shown);
  if (page.querySelector(".sb-card") && !performance.getEntriesByName("first-card").length) performance.mark("first-card");
  if (moved && document.activeElement !== list.search) page.querySelector("h2")?.focus({ preventScroll: true });
}

function trouble(error) {
  const text = error instanceof Missing
    ? `The data (${error.message}) are not there. Make them with: sae-book atlas`
    : `This cannot be shown: ${error.message}`;
  return el("p", { role: "alert", class: "sb-trouble" }, text);
}

/** j and k, left and right go to the neighbours, / to the search. */
function onKey(event) {
  const typing = event.target.closest?.("input, select, textarea, [contenteditable]");
  if (typing || event.altKey || event.ctrlKey || event.metaKey) return;
  const rel = { j: "next", ArrowRight: "next", k: "prev", ArrowLeft: "prev" }[event.key];
  if (event.key === "/") {
    // The theme has a search of its own on this key.
    event.preventDefault();
    event.stopImmediatePropagation();
    page.querySelector("input[type=search]")?.focus();
  } else if (rel && !event.target.closest?.(".sb-strip, .sb-text")) page.querySelector(`.sb-steps [rel=${rel}]`)?.click();
}

async function start() {
  place.replaceChildren(tabs, page);
  try {
    contents = await atlas();
  } catch (error) {
    page.replaceChildren(trouble(error));
    return;
  }
  list = new List(contents, () => refreshSteps());
  split = el("div", { class: "sb-split" }, list.node, el("article"));
  window.addEventListener("hashchange", () => route(true));
  window.addEventListener("keydown", onKey, true);
  await route();
}

/** After a search the neighbours are others. */
function refreshSteps() {
  const node = page.querySelector(".sb-card[data-unit]");
  if (!node || list.current === undefined) return;
  for (const [rel, by] of [["prev", -1], ["next", 1]]) {
    const to = list.beside(list.current, by);
    if (to !== undefined) node.querySelector(`.sb-steps [rel=${rel}]`)?.setAttribute("href", `#${list.set.name}/${to}`);
  }
}

start();
