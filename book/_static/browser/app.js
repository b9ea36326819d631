// The address decides what is shown: #A/1/3450, #A/neurons/489, #A/1, #text/3/A/1, #map or #rate.

import { atlas, card, expect, index, Missing, searchable, setNamed } from "./data.js";
import { panels } from "./card.js";
import { el } from "./dom.js";
import { List } from "./list.js";
import { mapView } from "./map.js";
import { exporter, form, nextBlind } from "./rating.js";
import { textView } from "./text.js";

const TITLE = "Feature browser";
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
  const isNamed = unit !== undefined;
  // The card comes while the list is being made.
  if (isNamed) expect(set, unit);
  const columns = await searchable(contents, set);
  if (isNamed && columns.density[unit] === null) {
    throw new Error(`there is no card of ${set.name}/${unit}; of ${set.name} only children of features in smaller dictionaries have one`);
  }
  unit ??= list.ordered(set, columns)[0] ?? 0;
  const found = await card(set, unit);
  return () => {
    const name = `${set.name}/${unit}`;
    // Whoever comes back here should find this card, not what is first in the list by then.
    if (!isNamed) history.replaceState(null, "", `#${name}`);
    list.use(set, columns);
    [1, -1].map((by) => list.beside(unit, by)).filter((to) => to !== undefined).forEach((to) => expect(set, to));
    document.title = `${name} · ${TITLE}`;
    if (!split.isConnected) page.replaceChildren(split);
    split.replaceChild(el("article", { class: "sb-card", "data-unit": name },
      el("header", {},
        el("h2", { tabindex: -1 }, `${set.kind === "neuron" ? "Neuron" : "Feature"} ${name}`),
        el("p", { class: "sb-steps" }, steps(unit))),
      panels(contents, set, columns, found),
      el("details", {}, el("summary", {}, "Rate it"), form(contents, set, unit, false))), split.lastChild);
    list.mark(unit);
  };
}

/** Links to the neighbours in the list; after a search they are others. */
function steps(unit) {
  const step = (by, text) => {
    const to = list.beside(unit, by);
    if (to === undefined) return el("span", { class: "sb-end" }, text);
    return el("a", { href: `#${list.set.name}/${to}`, rel: by > 0 ? "next" : "prev" }, text);
  };
  return [step(-1, "← previous (k)"), " ", step(1, "next (j) →")];
}

async function showBlind() {
  const names = ["A/1", "A/neurons"].filter((name) => setNamed(contents, name));
  const pools = await Promise.all(names.map(async (name) => {
    const set = setNamed(contents, name);
    const { density } = await index(set);
    return { set, units: density.flatMap((share, unit) => (share * contents.tokens >= RARE ? [unit] : [])) };
  }));
  const next = nextBlind(contents, pools);
  if (!next) return put(el("p", {}, "Everything is rated. ", exporter(contents)));
  const [columns, found] = await Promise.all([index(next.set), card(next.set, next.unit)]);
  return put(el("article", { class: "sb-card", "data-unit": "blind" },
    el("h2", { tabindex: -1 }, "A feature or a neuron"),
    el("p", {}, "You are not told which. Look, settle on one explanation, and rate it.",
      " Ratings stay in this browser until you export them."),
    panels(contents, next.set, columns, found, true),
    form(contents, next.set, next.unit, true, () => route(true))));
}

/** A view that takes the whole page. */
const put = (node) => () => {
  document.title = TITLE;
  page.replaceChildren(node);
};

async function view(address) {
  const [first, second, third, fourth] = address.split("/");
  if (first === "map") return ["map", put(await mapView(contents))];
  if (first === "text") return ["text", put(await textView(contents, Number(second ?? 0), third ? `${third}/${fourth}` : undefined))];
  if (first === "rate") return ["rate", await showBlind()];
  const set = setNamed(contents, address === "" ? "A/1" : `${first}/${second}`) ?? (address === "" ? contents.sets[0] : null);
  if (!set) throw new Error(`there is no ${address} here; the sets are ${contents.sets.map(({ name }) => name).join(", ")}`);
  if (third !== undefined && !/^\d+$/.test(third)) throw new Error(`there is no ${set.kind} ${third}`);
  return [set.name, await showUnit(set, third === undefined ? undefined : Number(third))];
}

async function route(moved = false) {
  // A heading of the page is somewhere to go and nothing to show.
  const isHeading = document.getElementById(location.hash.slice(1)) !== null;
  if (isHeading && page.firstChild) return;
  const mine = ++turn;
  const chosen = document.activeElement?.closest(".sb-textview select")?.name;
  // Whoever moved on meanwhile sees only where they went.
  const isLate = () => mine !== turn;
  try {
    const [name, draw] = await view(isHeading ? "" : decodeURIComponent(location.hash.slice(1)));
    if (isLate()) return;
    draw();
    drawTabs(name);
  } catch (error) {
    if (isLate()) return;
    put(trouble(error))();
    drawTabs("");
  }
  if (page.querySelector(".sb-card") && !performance.getEntriesByName("first-card").length) performance.mark("first-card");
  // Whoever goes through a choice with the keys stays at it, though the view around it is new.
  const again = chosen && page.querySelector(`select[name=${chosen}]`);
  if (moved && document.activeElement !== list.search) (again ?? page.querySelector("h2"))?.focus({ preventScroll: true });
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
  if (event.shiftKey && event.key.startsWith("Arrow")) return;
  const by = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 }[event.key];
  if (event.key === "/") {
    // The theme has a search of its own on this key.
    event.preventDefault();
    event.stopImmediatePropagation();
    page.querySelector("input[type=search]")?.focus();
  } else if (by && !event.target.closest?.(".sb-strip, .sb-text, .sb-table")) move(by);
}

function move(by) {
  if (!page.querySelector(".sb-steps")) return;
  // From the address, since the card of the key before may still be on its way.
  const [, name, unit] = /^#(.+)\/(\d+)$/.exec(decodeURIComponent(location.hash)) ?? [];
  const to = name === list.set.name ? list.beside(Number(unit), by) : undefined;
  if (to !== undefined) location.hash = `${name}/${to}`;
}

async function start() {
  place.replaceChildren(tabs, page);
  try {
    contents = await atlas();
  } catch (error) {
    page.replaceChildren(trouble(error));
    return;
  }
  list = new List(contents, () => page.querySelector(".sb-steps")?.replaceChildren(...steps(list.current)));
  split = el("div", { class: "sb-split" }, list.node, el("article"));
  window.addEventListener("hashchange", () => route(true));
  window.addEventListener("keydown", onKey, true);
  await route();
}

start();
