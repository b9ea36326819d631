// Pieces of text: shade is activation, underline is what taking the unit off does to the token's likelihood.

import { el, show } from "./dom.js";

/** One line that says the numbers of the token that is pointed at. */
export function readout() {
  const node = el("output", { class: "sb-readout" }, "Point at a token, or move through a text with the arrow keys, for its numbers.");
  const tell = (text) => { node.textContent = text; };
  return { node, tell };
}

function describe(text, act, effect) {
  const fires = act > 0 ? `activation ${show(act)}` : "does not fire";
  if (!effect) return `“${text}” · ${fires}`;
  const word = effect < 0 ? "helped" : "hurt";
  return `“${text}” · ${fires} · without it the token's log-likelihood changes by ${show(effect)} nats: it ${word}`;
}

/** A token as a span; a byte written as \xd8 beside Arabic would be turned round with it, and <bdi> keeps it as it is. */
export function piece(text, share) {
  const parts = text.split(/((?:\\x[0-9a-f]{2}|\\u\{[0-9a-f]+\})+)/);
  const node = el("span", { class: "sb-piece" }, parts.map((part, i) => (i % 2 ? el("bdi", { dir: "ltr" }, part) : part)));
  node.style.setProperty("--act", share.toFixed(3));
  return node;
}

/** Left and right go through the pieces of a text, not to the next card; `tell` hears which piece, and whether it was only pointed at. */
export function walk(node, pieces, tell, start = 0) {
  let at = start;
  const go = (to) => {
    pieces[at].classList.remove("sb-at");
    at = Math.max(0, Math.min(pieces.length - 1, to));
    pieces[at].classList.add("sb-at");
    tell(at, false);
  };
  node.addEventListener("focus", () => go(at));
  node.addEventListener("blur", () => pieces[at].classList.remove("sb-at"));
  node.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    go(at + step);
  });
  const under = ({ target }, then) => {
    const i = pieces.indexOf(target.closest(".sb-piece"));
    if (i >= 0) then(i);
  };
  node.addEventListener("pointerover", (event) => under(event, (i) => tell(i, true)));
  node.addEventListener("click", (event) => under(event, go));
}

/** One example of a card. */
export function strip([ids, acts, effects, centre], vocab, maximum, strongest, tell) {
  const said = ids.map((id, i) => describe(vocab[id], (acts[i] / 1000) * maximum, effects[i] / 1000));
  const pieces = ids.map((id, i) => {
    const node = piece(vocab[id], acts[i] / 1000);
    node.title = said[i];
    if (i === centre) node.classList.add("sb-centre");
    if (effects[i]) {
      node.classList.add(effects[i] < 0 ? "sb-helped" : "sb-hurt");
      node.style.setProperty("--effect", Math.min(1, 0.25 + Math.abs(effects[i]) / strongest).toFixed(2));
    }
    return node;
  });
  const text = ids.map((id) => vocab[id]).join("");
  const spoken = `${text}; in the middle ${said[centre]}`;
  // In an application a screen reader leaves the arrow keys to the page, and reads out what they lead to.
  const node = el("div", { class: "sb-strip", tabindex: 0, role: "application", dir: "auto",
    "aria-roledescription": "text, arrow keys move by token", "aria-label": spoken }, pieces);
  walk(node, pieces, (i) => tell(said[i]), centre);
  return el("li", {}, node);
}
