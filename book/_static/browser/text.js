// The text view: which units fire on which tokens of a text.

import { activities, index, setNamed, texts } from "./data.js";
import { el, show } from "./dom.js";
import { piece, walk } from "./strip.js";

const LISTED = 20;

/** The view of one text and one set; the address is #text/3/A/1. */
export async function textView(contents, number = 0, name = "A/1") {
  const set = setNamed(contents, name);
  if (!set?.whole || !contents.texts[number])
    throw new Error(`there is no text ${number} with ${name}; there are ${contents.texts.length} texts`);
  const [all, found, columns] = await Promise.all([texts(), activities(set, number), index(set)]);
  const text = all[number];
  const go = () => { location.hash = `text/${chooseText.value}/${chooseSet.value}`; };
  const chooseText = el("select", { name: "text", onchange: go },
    contents.texts.map((title, i) => el("option", { value: i, selected: i === number }, title)));
  const chooseSet = el("select", { name: "set", onchange: go },
    contents.sets.filter(({ whole }) => whole).map((other) => el("option", { selected: other === set }, other.name)));
  const heading = el("h3", { "aria-live": "polite" });
  const list = el("ol", { class: "sb-units" });
  const pieces = text.tokens.map((id) => piece(contents.vocab[id], 0));
  const body = el("div", { class: "sb-text", tabindex: 0, dir: "auto", role: "application",
    "aria-label": `Text ${text.name}; move through its tokens with the arrow keys` }, pieces);

  const actOf = (unit, i) => found.acts[i][found.units[i].indexOf(unit)] ?? 0;
  const colour = (unit) => pieces.forEach((part, i) => {
    const act = unit === null ? 0 : actOf(unit, i);
    // The largest activation is that of other text, and this one may go beyond it.
    part.style.setProperty("--act", Math.min(1, act / (columns.max[unit] || 1)).toFixed(3));
    part.title = act ? `activation ${show(act)}` : "";
  });
  const row = (unit, said) => {
    const label = contents.labels[columns.label[unit]];
    return el("li", {}, el("a", {
      href: `#${set.name}/${unit}`,
      onpointerenter: () => colour(unit), onfocus: () => colour(unit),
      onpointerleave: () => colour(null), onblur: () => colour(null),
    }, `${set.name}/${unit}`), ` ${said}`, label ? ` · ${label}` : "");
  };
  let isPinned = false;
  const whole = () => {
    isPinned = false;
    const counts = new Map();
    found.units.forEach((units) => units.forEach((unit) => counts.set(unit, (counts.get(unit) ?? 0) + 1)));
    heading.textContent = `${set.kind}s that are among the strongest of most tokens`;
    const most = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, LISTED);
    list.replaceChildren(...most.map(([unit, n]) => row(unit, `${n} tokens`)));
  };
  const tell = (i, isPointed) => {
    // On the way from a token to its list the pointer crosses others.
    if (isPointed && isPinned) return;
    isPinned = !isPointed;
    const truth = contents.labels[text.labels[i]];
    const what = truth ? `, which is ${truth}` : "";
    heading.textContent = `“${contents.vocab[text.tokens[i]]}”${what}: ${show(found.active[i])} ${set.kind}s fire`;
    list.replaceChildren(...found.units[i].map((unit, k) => row(unit, `activation ${show(found.acts[i][k])}`)));
  };
  walk(body, pieces, tell);
  whole();
  return el("div", { class: "sb-textview" },
    el("h2", { tabindex: -1 }, text.name),
    el("p", {}, el("label", {}, "Text ", chooseText), " ", el("label", {}, "Set ", chooseSet), " ",
      el("button", { type: "button", onclick: whole }, "the whole text")),
    el("p", {}, `Point at a token to list the ${set.kind}s that fire on it, the strongest first (at most 20 are kept of each token); `
      + "press on it, and the list stays until you press another. Point at one of them to colour the text by it."),
    body,
    el("section", { class: "sb-side" }, heading, list));
}
