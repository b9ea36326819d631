// A card: everything that is known of one feature or neuron.

import { setNamed } from "./data.js";
import { el, histogram, percent, show, table, token } from "./dom.js";
import { readout, strip } from "./strip.js";

const address = (contents, name, unit) => {
  const text = `${name}/${unit}`;
  return setNamed(contents, name) ? el("a", { href: `#${text}` }, text) : text;
};

function facts(contents, columns, unit) {
  const label = columns.label[unit];
  const rows = [
    ["fires on", `${percent(columns.density[unit])} of ${show(contents.tokens)} tokens`],
    ["largest activation", show(columns.max[unit])],
    ["best label", label < 0 ? `none of ${show(contents.judged.labels)} fits` : [el("strong", {}, contents.labels[label]),
      ` (${contents.meanings[label]}): F1 ${show(columns.f1[unit])}, precision ${show(columns.precision[unit])}`]],
    columns.explanation[unit] && ["explanation", columns.explanation[unit]],
    columns.score[unit] !== null && ["interpretability score", show(columns.score[unit])],
  ];
  return el("dl", { class: "sb-facts" }, rows.filter(Boolean).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function groups(contents, examples, maximum, tell) {
  const last = examples.length - 1;
  const intervals = last - 1;
  const strongest = Math.max(1, ...examples.flat().flatMap(([, , effects]) => effects.map(Math.abs)));
  const heading = (i) => {
    if (i === 0) return "Strongest";
    if (i === last) return "Where it does not fire";
    return `From ${show(((i - 1) / intervals) * maximum)} to ${show((i / intervals) * maximum)}`;
  };
  const order = [0, ...Array.from({ length: intervals }, (_, i) => intervals - i), last];
  return order.map((i) => el("section", { class: "sb-group" }, el("h4", {}, heading(i)),
    examples[i].length
      ? el("ul", {}, examples[i].map((example) => strip(example, contents.vocab, maximum, strongest, tell)))
      : el("p", {}, "nothing fell into this interval")));
}

function logits(contents, card) {
  const side = (caption, [ids, weights]) => table(caption, ["token", "weight"],
    ids.map((id, i) => [token(contents.vocab[id]), show(weights[i])]));
  const { top, bottom } = card.logits;
  return el("section", {}, el("h3", {}, "What it makes likelier"),
    el("div", { class: "sb-pair" }, side("Highest logit weights", top), side("Lowest logit weights", bottom)),
    histogram("Logit weights of all tokens", card.logits.histogram, bottom[1][0], top[1][0], "logit weight, counts on a log scale"));
}

function relatives(contents, set, card) {
  const model = set.name.split("/")[0];
  const neuron = (index) => address(contents, `${model}/neurons`, index);
  const shown = (values) => values.map((value) => show(value));
  const rows = (list) => (list ?? []).map(([name, index, ...values]) => [address(contents, name, index), ...shown(values)]);
  const other = model === "A" ? "B" : "A";
  const similar = ["feature", "Pearson", "cosine"];
  const tables = [
    ["Neurons it writes to", ["neuron", "coefficient", "share of L1"],
      (card.aligned ?? []).map(([index, value, share]) => [neuron(index), show(value), percent(share)])],
    ["Neurons that go with it", ["neuron", "Pearson", "cosine"],
      card.neurons.map(([index, ...values]) => [neuron(index), ...shown(values)])],
    ["Nearest features by direction", ["feature", "cosine"],
      (card.nearest ?? []).map(([index, value]) => [address(contents, set.name, index), show(value)])],
    ["Nearest features by activation", similar, rows(card.alike)],
    [set.kind === "neuron" ? "Features that go with it" : `Twins in model ${other}`, similar, rows(card.twins)],
    ["Parents in the smaller dictionary", ["feature", "masked cosine"], rows(card.parents)],
    ["Children in the larger dictionary", ["feature", "masked cosine"], rows(card.children)],
  ];
  return el("section", {}, el("h3", {}, "Relatives"),
    el("div", { class: "sb-relatives" }, tables.filter(([, , rows]) => rows.length).map((parts) => table(...parts))));
}

/** The panels of a card; a blind one leaves out whatever says who it is. */
export function panels(contents, set, columns, card, blind = false) {
  const maximum = columns.max[card.unit];
  const out = readout();
  const examples = el("section", { class: "sb-examples" }, el("h3", {}, "Examples"),
    el("p", { class: "sb-key" }, "Shade: how strongly it fires. Underline: what taking it off does to the token's likelihood, ",
      el("span", { class: "sb-helped" }, "it helped"), " or ", el("span", { class: "sb-hurt" }, "it hurt"), "."),
    groups(contents, card.examples, maximum, out.tell), out.node);
  // Neurons fire on a hundred times as many tokens as features: a share or a count would say which of the two it is.
  if (blind) return [examples, logits(contents, card)];
  const fires = histogram(`Activations (fires on ${percent(columns.density[card.unit])} of the tokens)`,
    card.histogram, 0, maximum, "activation, counts on a log scale");
  const rest = [logits(contents, card), relatives(contents, set, card)];
  if (!columns.density[card.unit]) {
    const said = `It fires on none of the ${show(contents.tokens)} tokens that were looked at. What it would do is known all the same.`;
    return [el("p", {}, said), rest];
  }
  return [facts(contents, columns, card.unit), fires, examples, rest];
}
