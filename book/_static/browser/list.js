// The list of a set: search, sort, filter, and who comes next.

import { searchable, matches } from "./data.js";
import { el, percent, show, token } from "./dom.js";

const PAGE = 50;
const SORTS = {
  number: ["number", (columns, unit) => unit],
  density: ["density, high first", (columns, unit) => -columns.density[unit]],
  rare: ["density, low first", (columns, unit) => columns.density[unit] || Infinity],
  max: ["largest activation", (columns, unit) => -columns.max[unit]],
  f1: ["fit of the best label", (columns, unit) => -columns.f1[unit]],
  label: ["best label, A to Z", null],
  score: ["interpretability score", (columns, unit) => -(columns.score[unit] ?? -Infinity)],
};
const RANGES = { density: "density", max: "largest activation", f1: "F1 of the best label", score: "interpretability score" };

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
    this.pages = el("p", { class: "sb-pages" });
    this.filters = el("details", { class: "sb-filters" }, el("summary", {}, "Order and filter"),
      el("label", {}, "Order ", this.sort),
      el("label", {}, "Label ", this.label),
      Object.entries(RANGES).map(([name, text]) => el("div", { class: "sb-range" }, el("span", {}, text), this.ranges[name])),
      el("label", {}, this.fired, " only those that fire"));
    this.node = el("nav", { class: "sb-list", "aria-label": "Features and neurons" },
      this.search, this.filters, this.status, this.rows, this.pages);
  }

  async open(set) {
    if (this.set === set) return;
    this.columns = await searchable(this.contents, set);
    this.set = set;
    const { labels } = this.contents;
    const used = [...new Set(this.columns.label)].filter((label) => label >= 0).sort((a, b) => (labels[a] < labels[b] ? -1 : 1));
    const isScored = this.columns.score.some((score) => score !== null);
    this.sort.querySelector("[value=score]").hidden = !isScored;
    this.ranges.score[0].parentElement.hidden = !isScored;
    this.label.replaceChildren(el("option", { value: "" }, "any"), ...used.map((label) => el("option", { value: label }, labels[label])));
    const unscored = this.columns.score.every((score) => score === null);
    for (const control of [this.sort.querySelector("[value=score]"), ...this.ranges.score]) control.disabled = unscored;
    this.update();
  }

  update() {
    if (!this.columns) return;
    const query = this.search.value.trim().toLowerCase();
    const label = this.label.value === "" ? null : Number(this.label.value);
    const end = (input, none) => (input.value === "" ? none : Number(input.value));
    const ends = Object.entries(this.ranges)
      .filter(([, inputs]) => inputs.some((input) => input.value !== ""))
      .map(([name, [low, high]]) => [this.columns[name], end(low, -Infinity), end(high, Infinity)]);
    const keeps = (unit) => matches(this.columns, unit, query)
      && (label === null || this.columns.label[unit] === label)
      && (!this.fired.checked || this.columns.density[unit] > 0)
      && ends.every(([column, low, high]) => column[unit] !== null && low <= column[unit] && column[unit] <= high);
    this.order = this.columns.label.map((_, unit) => unit).filter(keeps);
    const key = SORTS[this.sort.value][1];
    const name = (unit) => this.contents.labels[this.columns.label[unit]] ?? "\uffff";
    if (key) {
      const keys = this.order.map((unit) => [key(this.columns, unit), unit]);
      // Of two that are alike the lower number comes first; Infinity - Infinity is no number.
      keys.sort((a, b) => (a[0] === b[0] ? a[1] - b[1] : a[0] < b[0] ? -1 : 1));
      this.order = keys.map(([, unit]) => unit);
    } else this.order.sort((a, b) => (name(a) === name(b) ? a - b : name(a) < name(b) ? -1 : 1));
    this.page = 0;
    this.drawn = null;
    this.onOrder();
    this.mark(this.current);
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

  /** The unit some places further on; the ends of the list are ends. */
  beside(unit, step) {
    const at = this.order.indexOf(unit);
    return at < 0 ? this.order[0] : this.order[at + step];
  }

  onKey(event) {
    if (event.key === "Enter" && this.order.length) location.hash = `${this.set.name}/${this.order[0]}`;
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
        el("span", {}, contents.labels[columns.label[unit]] || columns.explanation[unit] || "no label fits"),
        el("small", {}, columns.top[unit].map((id) => token(contents.vocab[id])), ` fires on ${percent(columns.density[unit])}`)))));
    const last = Math.ceil(n / PAGE) - 1;
    const turn = (page, text) => el("button", { type: "button", disabled: page < 0 || page > last, onclick: () => {
      this.page = page;
      this.draw();
    } }, text);
    const turns = [turn(this.page - 1, "earlier"), ` page ${this.page + 1} of ${last + 1} `, turn(this.page + 1, "later")];
    this.pages.replaceChildren(...(last > 0 ? turns : []));
    this.drawn = `${set.name} ${this.page}`;
    this.point();
  }
}
