// The map: features whose directions are alike lie close together.

import { finder, map, searchable, setNamed } from "./data.js";
import { el, percent, show, table, token } from "./dom.js";

const EDGE = 24;
const LISTED = 50; // hits of a search

export async function mapView(contents) {
  const found = await map();
  const sets = found.sets.map((name) => setNamed(contents, name));
  const columns = await Promise.all(sets.map((set) => searchable(contents, set)));
  const canvas = el("canvas", { class: "sb-map", role: "img",
    "aria-label": `Map of ${found.unit.length} features; the table below lists its clusters` });
  const said = el("output", { class: "sb-readout" }, "Point at a feature; press to open it.");
  const members = el("ol", { class: "sb-units" });
  const search = el("input", { type: "search", placeholder: "token, label or number",
    "aria-label": "Search the map", oninput: () => look() });
  const whole = { x: 0, y: 0, size: 1000 };
  // What is searched for is found when the search changes, not whenever the pointer moves; null means no search.
  let view = whole, near = -1, chosenCluster = null, places = [], hits = null;

  const name = (i) => `${found.sets[found.set[i]]}/${found.unit[i]}`;
  const words = (i) => {
    const { label, explanation, top } = columns[found.set[i]];
    const unit = found.unit[i];
    const meaning = contents.labels[label[unit]] || explanation[unit] || "no label fits";
    const cluster = found.cluster[i] < 0 ? "" : ` · cluster #${found.cluster[i]}`;
    return `${name(i)} · ${meaning}${cluster} · ${top[unit].map((id) => contents.vocab[id]).join(" | ")}`;
  };

  // Neighbouring clusters get hues far apart.
  const hue = (cluster) => (cluster < 0 ? "#8a8a8a" : `hsl(${(cluster * 137) % 360} 65% 50%)`);

  function draw() {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    const ink = getComputedStyle(canvas).color;
    const scale = (Math.min(width, height) - 2 * EDGE) / view.size;
    pen.scale(ratio, ratio);
    const from = (value, edge, length) => length / 2 + (value - edge - view.size / 2) * scale;
    places = found.x.map((x, i) => [from(x, view.x, width), from(found.y[i], view.y, height)]);
    places.forEach(([x, y], i) => {
      const hit = hits?.has(i);
      const aside = (hits && !hit) || (chosenCluster !== null && found.cluster[i] !== chosenCluster);
      pen.globalAlpha = aside ? 0.15 : 0.85;
      pen.fillStyle = hue(found.cluster[i]);
      const size = (hit ? 5 : 2.5) * (i === near ? 2 : 1);
      pen.beginPath();
      // The smaller dictionary's features are squares.
      if (found.set[i] === 0 && found.sets.length > 1) pen.rect(x - size, y - size, 2 * size, 2 * size);
      else pen.arc(x, y, size, 0, 7);
      pen.fill();
      if (i === near || hit) {
        pen.strokeStyle = ink;
        pen.stroke();
      }
    });
  }

  function point(event) {
    let best = 20 * 20;
    near = -1;
    places.forEach(([x, y], i) => {
      const away = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
      if (away < best) [best, near] = [away, i];
    });
    if (near >= 0) said.textContent = words(near);
    draw();
  }

  const list = (chosen) => members.replaceChildren(...chosen.map((i) => el("li", {}, el("a", { href: `#${name(i)}` }, words(i)))));
  function look() {
    const query = search.value.trim().toLowerCase();
    const isFound = sets.map((set, i) => finder(contents, set, columns[i], query));
    hits = query ? new Set(found.unit.flatMap((unit, i) => (isFound[found.set[i]](unit) ? [i] : []))) : null;
    if (hits) said.textContent = `${show(hits.size)} of ${show(found.unit.length)} features found`;
    list([...hits ?? []].slice(0, LISTED));
    draw();
  }
  function zoom(number) {
    const chosen = found.cluster.flatMap((cluster, i) => (cluster === number ? [i] : []));
    const range = (values) => [Math.min(...values), Math.max(...values)];
    const [left, right] = range(chosen.map((i) => found.x[i])), [top, bottom] = range(chosen.map((i) => found.y[i]));
    const size = Math.max(30, right - left, bottom - top);
    chosenCluster = number;
    view = { x: (left + right - size) / 2, y: (top + bottom - size) / 2, size };
    list(chosen);
    draw();
    canvas.scrollIntoView({ block: "nearest" });
  }
  const all = () => { view = whole; chosenCluster = null; look(); };

  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("click", (event) => { point(event); if (near >= 0) location.hash = name(near); });
  new ResizeObserver(draw).observe(canvas);
  const rows = found.clusters.map((cluster, i) => [
    [el("span", { class: "sb-swatch", style: `background: ${hue(i)}`, "aria-hidden": "true" }),
      el("button", { type: "button", onclick: () => zoom(i) }, `#${i}`)],
    show(cluster.n),
    cluster.label < 0 ? "no label fits" : `${contents.labels[cluster.label]} (${percent(cluster.share)})`,
    cluster.top.map((id) => token(contents.vocab[id])),
  ]);
  return el("div", { class: "sb-mapview" },
    el("h2", { tabindex: -1 }, "Map"),
    el("p", {}, `The directions of the features of ${found.sets.join(" and ")} that fire, laid out by UMAP: `
      + "only who lies near whom has a meaning. "
      + "Squares are features of the smaller dictionary. Clusters are HDBSCAN's, named by the label that most of their features fit best."),
    el("p", {}, search, " ", el("button", { type: "button", onclick: all }, "Show all")),
    canvas, said, members,
    rows.length
      ? table("Clusters", ["cluster", "features", "label", "tokens"], rows)
      : el("p", {}, "No features lie close enough to form clusters."));
}
