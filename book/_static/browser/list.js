// The list of a set: search, sort, filter, and who comes next.

import { addressed, finder } from "./data.js";
import { el, percent, show, token } from "./dom.js";

const PAGE = 50;

/** A number that looks random for every number, and is the same whenever it is asked for. */
function shuffled(unit) {
  const mixed = Math.imul((unit + 1) ^ ((unit + 1) >>> 16), 0x45d9f3b);
  return Math.imul(mixed ^ (mixed >>> 16), 0x45d9f3b) >>> 0;
}

const SORTS = {
  number: ["number", (columns, unit) => unit],
  random: ["random", (columns, unit) => shuffled(unit)],
  density: ["density, high first", (columns, unit) => -columns.density[unit]],
  rare: ["density, low first", (columns, unit) => columns.density[unit] || Infinity],
  max: ["largest activation", (columns, unit) => -columns.max[unit]],
  f1: ["fit of the best label", (columns, unit) => -columns.f1[unit]],
  label: ["best label, A to Z", null],
  score: ["interpretability score", (columns, unit) => -(columns.score[unit] ?? -Infinity)],
};
const RANGES = {
  density: "density (a share: 0.01 is 1%)",
  max: "largest activation",
  f1: "F1 of the best label",
  score: "interpretability score",
};

/** The beginning of an explanation; the card has all of it. */
const short = (text) => (text.length > 90 ? `${[...text].slice(0, 88).join("")}…` : text);

export class List {
  constructor(contents, onOrder) {
    this.contents = contents;
    this.onOrder = onOrder;
    this.order = [];
    this.page = 0;
    this.search = el("input", { type: "search", placeholder: "token, label, explanation or number", "aria-label": "Search this set",
      oninput: () => this.update(), onkeydown: (event) => this.onKey(event) });
    this.sort = el("select", { "aria-label": "Order", onchange: () => this.update() },
      Object.entries(SORTS).map(([value, [text]]) => el("option", { value }, text)));
    this.label = el("select", { "aria-label": "Only this label", onchange: () => this.update() });
    this.fired = el("input", { type: "checkbox", checked: true, onchange: () => this.update() });
    this.ranges = Object.fromEntries(Object.entries(RANGES).map(([name, text]) => [name, ["from", "to"].map((end) =>
      el("input", { type: "number", step: "any", placeholder: end, "aria-label": `${text} ${end}`, oninput: () => this.update() }))]));
    this.status = el("p", { class: "sb-status", role: "status" });
    this.rows = el("ol", { class: "sb-rows" });
    const turn = (by, text) => el("button", { type: "button", onclick: () => {
      this.page += by;
      this.draw();
    } }, text);
    [this.earlier, this.where, this.later] = [turn(-1, "earlier"), el("span", {}), turn(1, "later")];
    this.pages = el("p", { class: "sb-pages" }, this.earlier, this.where, this.later);
    this.filters = el("details", { class: "sb-filters" }, el("summary", {}, "Order and filter"),
      el("label", {}, "Order ", this.sort),
      el("label", {}, "Label ", this.label),
      Object.entries(RANGES).map(([name, text]) => el("div", { class: "sb-range" }, el("span", {}, text), this.ranges[name])),
      el("label", {}, this.fired, " only those that fire"));
    this.node = el("nav", { class: "sb-list", "aria-label": "Features and neurons" },
      this.search, this.filters, this.status, this.rows, this.pages);
  }

  /** List a set whose columns are there; nothing is waited for, so the list and the card beside it are never of two sets. */
  use(set, columns) {
    if (this.set === set) return;
    this.set = set;
    this.columns = columns;
    const { labels } = this.contents;
    const used = [...new Set(this.columns.label)].filter((label) => label !== null && label >= 0)
      .sort((a, b) => (labels[a] < labels[b] ? -1 : 1));
    const isScored = this.columns.score.some((score) => score !== null);
    this.sort.querySelector("[value=score]").hidden = !isScored;
    this.ranges.score[0].parentElement.hidden = !isScored;
    for (const control of [this.sort.querySelector("[value=score]"), ...this.ranges.score]) control.disabled = !isScored;
    const wanted = this.label.value;
    this.label.replaceChildren(el("option", { value: "" }, "any"), ...used.map((label) => el("option", { value: label }, labels[label])));
    if (used.includes(Number(wanted))) this.label.value = wanted;
    this.update();
  }

  query() {
    return this.search.value.trim().toLowerCase();
  }

  /** The units of a set that pass the search and the filters, in their order. */
  ordered(set, columns) {
    const isFound = finder(this.contents, set, columns, this.query());
    const label = this.label.value === "" ? null : Number(this.label.value);
    const end = (input, none) => (input.value === "" ? none : Number(input.value));
    const ends = Object.entries(this.ranges)
      .filter(([, inputs]) => inputs.some((input) => input.value !== ""))
      .map(([name, [low, high]]) => [columns[name], end(low, -Infinity), end(high, Infinity)]);
    // Of a dictionary that is not opened as a whole, most have no card.
    const keeps = (unit) => columns.density[unit] !== null && isFound(unit)
      && (label === null || columns.label[unit] === label)
      && (!this.fired.checked || columns.density[unit] > 0)
      && ends.every(([column, low, high]) => column[unit] !== null && low <= column[unit] && column[unit] <= high);
    const key = SORTS[this.sort.value][1] ?? ((_, unit) => this.contents.labels[columns.label[unit]] ?? "\uffff");
    const keys = columns.label.flatMap((_, unit) => (keeps(unit) ? [[key(columns, unit), unit]] : []));
    // Of two that are alike the lower number comes first; Infinity - Infinity is no number.
    keys.sort((a, b) => (a[0] === b[0] ? a[1] - b[1] : a[0] < b[0] ? -1 : 1));
    return keys.map(([, unit]) => unit);
  }

  /** The first of what was found is what is looked at next, wherever the open card stands. */
  update() {
    if (!this.columns) return;
    this.order = this.ordered(this.set, this.columns);
    this.page = 0;
    this.draw();
    this.onOrder();
  }

  /** Show which unit is open, and the page of the list that it stands on. */
  mark(unit) {
    this.current = unit;
    const at = this.order.indexOf(unit);
    if (at >= 0) this.page = Math.floor(at / PAGE);
    if (this.drawn !== `${this.set.name} ${this.page}`) this.draw();
    else this.point();
  }

  point() {
    this.rows.querySelector("[aria-current]")?.removeAttribute("aria-current");
    const here = this.rows.querySelector(`[data-unit="${this.current}"]`);
    here?.setAttribute("aria-current", "true");
    if (here) this.rows.scrollTop = here.offsetTop - this.rows.offsetTop - 60;
  }

  /** The next unit (step 1) or the one before (-1); the ends of the list are ends. */
  beside(unit, step) {
    const at = this.order.indexOf(unit);
    if (at >= 0) return this.order[at + step];
    // A unit that the list leaves out stands where its number would, and before everything in any other order.
    const after = this.sort.value === "number" ? this.order.findIndex((other) => other > unit) : 0;
    return this.order[(after < 0 ? this.order.length : after) - (step < 0 ? 1 : 0)];
  }

  onKey(event) {
    const [set, unit] = addressed(this.contents, this.query(), this.set) ?? [this.set, this.order[0]];
    if (event.key === "Enter" && unit !== undefined) location.hash = `${set.name}/${unit}`;
    if (event.key === "Escape") this.search.blur();
  }

  draw() {
    const { contents, columns, set } = this;
    const n = this.order.length;
    this.status.textContent = `${show(n)} of ${show(set.n)} ${set.kind}s`;
    this.rows.start = this.page * PAGE + 1;
    this.rows.replaceChildren(...this.order.slice(this.page * PAGE, (this.page + 1) * PAGE).map((unit) => el("li", {},
      el("a", { href: `#${set.name}/${unit}`, "data-unit": unit },
        el("strong", {}, String(unit)), " ",
        el("span", {}, contents.labels[columns.label[unit]] || short(columns.explanation[unit]) || "no label fits"),
        el("small", {}, columns.top[unit].map((id) => token(contents.vocab[id])), ` fires on ${percent(columns.density[unit])}`)))));
    const last = Math.ceil(n / PAGE) - 1;
    this.pages.hidden = last <= 0;
    this.where.textContent = ` page ${this.page + 1} of ${last + 1} `;
    this.earlier.disabled = this.page === 0;
    this.later.disabled = this.page >= last;
    this.drawn = `${set.name} ${this.page}`;
    this.point();
  }
}
