// Elements. Whatever comes from the data goes in as text, so that a text full of markup is just a text.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

export function show(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const short = () => (size >= 1e-4 && size < 1e6 ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 1));
  return (Number.isInteger(value) ? value.toLocaleString("en") : short()).replaceAll("-", "−");
}

export const percent = (share) => `${show(100 * share)}%`;

/** A token outside of a text: its spaces are to be seen. */
export const token = (text) => el("code", { class: "sb-token" }, text);

/** A table whose first column names the row; cells are text or elements. */
export function table(caption, headings, rows) {
  return el("div", { class: "sb-table", role: "region", "aria-label": caption, tabindex: 0 },
    el("table", {},
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, headings.map((heading) => el("th", { scope: "col" }, heading)))),
      el("tbody", {}, rows.map(([first, ...rest]) =>
        el("tr", {}, el("th", { scope: "row" }, first), rest.map((cell) => el("td", {}, cell)))))));
}

/** Bars from left to right; who does not see them finds the numbers below. */
export function histogram(caption, counts, low, high, unit) {
  const most = Math.max(1, ...counts);
  const width = 100 / counts.length;
  const edge = (i) => low + ((high - low) * i) / counts.length;
  // Tails are what such histograms are looked at for, so heights go with the logarithm.
  const tall = (count) => (count ? 6 + 94 * Math.log1p(count) / Math.log1p(most) : 0);
  const bars = counts.map((count, i) => svg("rect", { x: i * width, y: 100 - tall(count), width: width * 0.9, height: tall(count) },
    svg("title", {}, `${show(edge(i))} to ${show(edge(i + 1))}: ${show(count)}`)));
  const zero = low < 0 && high > 0 ? (100 * -low) / (high - low) : null;
  const rows = () => counts.flatMap((count, i) => (count ? [[show(edge(i)), show(edge(i + 1)), show(count)]] : []));
  const numbers = el("details", {}, el("summary", {}, "numbers"));
  // Few are ever opened, and moving from card to card should be quick.
  numbers.addEventListener("toggle", () => numbers.append(table(caption, ["from", "to", "count"], rows())), { once: true });
  return el("figure", { class: "sb-histogram" },
    el("figcaption", {}, caption),
    svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img",
      "aria-label": `${caption}; from ${show(low)} to ${show(high)}` },
      bars, zero === null ? null : svg("line", { x1: zero, x2: zero, y1: 0, y2: 100 })),
    el("div", { class: "sb-ends", "aria-hidden": "true" }, el("span", {}, show(low)), el("span", {}, unit), el("span", {}, show(high))),
    numbers);
}
