// Files of the atlas, each fetched once and when it is wanted.

const BASE = new URL("../../browser/", import.meta.url);
const FORMAT = 3;
const HELD = 32; // files of cards; a long walk through a set should not fill a phone
const files = new Map();

export class Missing extends Error {}

function file(name) {
  if (!files.has(name)) {
    const answer = read(name);
    files.set(name, answer);
    const cards = [...files.keys()].filter((other) => other.includes("/cards-"));
    if (cards.length > HELD) files.delete(cards[0]);
    // What failed is asked for again next time.
    answer.catch(() => files.delete(name));
  }
  return files.get(name);
}

async function read(name) {
  // The server is asked whether the file is still the same, since the book may have been made anew.
  const answer = await fetch(new URL(name, BASE), { cache: "no-cache" });
  if (answer.status === 404) throw new Missing(name);
  if (!answer.ok) throw new Error(`${name}: the server answered ${answer.status}`);
  try {
    return await answer.json();
  } catch {
    throw new Error(`${name} is damaged; make the book's data again with: sae-book atlas`);
  }
}

/** What there is, with the words for tokens. */
export async function atlas() {
  const [contents, vocab] = await Promise.all([file("atlas.json"), file("vocab.json")]);
  if (contents.format !== FORMAT) throw new Error("the data are of another version of the book; make the book again");
  return { ...contents, vocab };
}

export const setNamed = (contents, name) => contents.sets.find((set) => set.name === name);
export const index = (set) => file(`${set.folder}/index.json`);
export const texts = () => file("texts.json");
export const activities = (set, text) => file(`${set.folder}/text-${String(text).padStart(2, "0")}.json`);
export const map = () => file("map.json");

const chunk = (set, unit) => file(`${set.folder}/cards-${String(Math.floor(unit / set.chunk)).padStart(3, "0")}.json`);

export async function card(set, unit) {
  const found = (await chunk(set, unit)).find?.((each) => each.unit === unit);
  if (!found) throw new Error(`the card of ${set.name}/${unit} is damaged; make the book's data again with: sae-book atlas`);
  return found;
}

/** Ask for a card that is likely to be wanted next. */
export const expect = (set, unit) => { chunk(set, unit).catch(() => {}); };

/** The index with what a search looks through, made once. */
export async function searchable(contents, set) {
  const columns = await index(set);
  columns.words ??= columns.label.map((label, unit) => [
    label >= 0 && label !== null ? `${contents.labels[label]} ${contents.meanings[label]}` : "",
    columns.explanation[unit],
    columns.top[unit]?.map((id) => contents.vocab[id]).join(" "),
  ].join(" ").toLowerCase());
  return columns;
}

/** The unit that a query names by its address, such as a/1/345, or by its number in a set; undefined if it names none. */
export function addressed(contents, query, set) {
  const [, name, number] = /^(?:([ab]\/\w+)\/)?(\d+)$/.exec(query) ?? [];
  const meant = name === undefined ? set : contents.sets.find((other) => other.name.toLowerCase() === name);
  return number !== undefined && meant && Number(number) < meant.n ? [meant, Number(number)] : undefined;
}

/** Tells of a unit whether somebody looks for it: by its address or number, or by a piece of its label, explanation or tokens. */
export function finder(contents, set, columns, query) {
  const [meant, number] = addressed(contents, query, set) ?? [];
  return (unit) => (meant === set && number === unit) || columns.words[unit].includes(query);
}
