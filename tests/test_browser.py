"""The feature browser's data, written from models that are not trained and a text that means harm."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_in import HALF_A_PAIR, StandIn

from sae_lib import browser, build, cli
from sae_lib.browser import NEURONS, Sizes, check_room, passages_of_every_stratum, put, write_atlas
from sae_lib.corpus import STRATA, LabelledText
from sae_lib.errors import BookError
from sae_lib.evidence import gather
from sae_lib.interpret import Explanation, opinions
from sae_lib.interventions import ablation_effects
from sae_lib.proxies import TokenTable

SIZES = Sizes(n_tokens=1_000, n_top=6, n_each=2)
SCRIPTS = sorted((Path(__file__).parents[1] / "book" / "_static" / "browser").glob("*.js"))


@pytest.fixture(scope="module")
def lab() -> StandIn:
    return StandIn()


class Hostile:
    """Explains everything by the same words, and predicts that tokens count."""

    name = "hostile"

    def explain(self, brief):
        return Explanation("<b>turned \u202e round")

    def predict(self, explanation, texts):
        return [[float(place) for place in range(len(text))] for text in texts]

    def plausible(self, explanation, tokens):
        return [True] * len(tokens)


@pytest.fixture(scope="module")
def folder(lab, tmp_path_factory) -> Path:
    return write_atlas(tmp_path_factory.mktemp("atlas") / "data", lab, SIZES, lab.truth, lab.passages, Hostile())


def read(path: Path):
    """JSON without the constants that a browser refuses."""

    def refuse(constant: str):
        raise AssertionError(f"{path.name} holds {constant}")

    return json.loads(path.read_text(encoding="ascii"), parse_constant=refuse)


def acts_of(lab, name: str, tokens) -> torch.Tensor:
    x = lab.model(name[0]).begin(torch.as_tensor(tokens))[1]
    return x if name == NEURONS else lab.dictionary(name).encode(x)


def test_the_files_are_those_that_the_contents_promise(folder, lab):
    contents = read(folder / "atlas.json")
    assert {found["name"]: (found["kind"], found["n"]) for found in contents["sets"]} == {
        "A/0": ("feature", 8),
        "A/1": ("feature", 40),
        "B/1": ("feature", 40),
        "A/neurons": ("neuron", 32),
        "A/2": ("feature", 48),
    }
    assert [found["name"] for found in contents["sets"] if not found["whole"]] == ["A/2"]
    promised = {"atlas.json", "vocab.json", "texts.json", "map.json"}
    for found in contents["sets"]:
        columns = read(folder / found["folder"] / "index.json")
        assert {len(column) for column in columns.values()} == {found["n"]}
        cards = [f"cards-{number:03d}.json" for number in range(-(-found["n"] // found["chunk"]))]
        units = [card["unit"] for name in cards for card in read(folder / found["folder"] / name)]
        assert units == [unit for unit, density in enumerate(columns["density"]) if density is not None]
        assert units == list(range(found["n"])) or not found["whole"]
        texts = [f"text-{number:02d}.json" for number in range(len(contents["texts"]))] if found["whole"] else []
        promised |= {f"{found['folder']}/{name}" for name in ("index.json", *cards, *texts)}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.json")} == promised
    assert len(read(folder / "vocab.json")) == lab.model("A").cfg.d_vocab


@pytest.mark.parametrize("name", ["A/1", "B/1", NEURONS])
def test_density_maximum_and_histogram_are_those_of_the_text(folder, lab, name):
    acts = acts_of(lab, name, lab.truth.tokens).flatten(0, 1)
    columns = read(folder / name.replace("/", "-") / "index.json")
    assert columns["density"] == pytest.approx((acts > 0).float().mean(0).tolist(), rel=0.01)
    assert columns["max"] == pytest.approx(acts.amax(0).tolist(), rel=0.01)
    for path in sorted((folder / name.replace("/", "-")).glob("cards-*.json")):
        for card in read(path):
            assert sum(card["histogram"]) == int((acts[:, card["unit"]] > 0).sum())


def test_an_example_shows_tokens_activations_and_effects_of_its_place(folder, lab):
    tokens, model, sae = torch.from_numpy(lab.truth.tokens), lab.model("A"), lab.dictionary("A/1")
    evidence = gather(model, sae, tokens, SIZES.n_top, SIZES.n_each)
    unit = int(evidence.fired.argmax())
    card = read(folder / "A-1" / f"cards-{unit // 32:03d}.json")[unit % 32]
    assert len(card["examples"]) == 13
    effects, acts = ablation_effects(model, sae, tokens, unit), acts_of(lab, "A/1", tokens)[..., unit].numpy()
    for place, (ids, shown, nats, centre) in enumerate(card["examples"][0]):
        context, pos = int(evidence.top.context[unit, place]), int(evidence.top.pos[unit, place])
        low, high = max(0, pos - 4), min(tokens.shape[1], pos + 5)
        assert centre == pos - low
        assert ids == tokens[context, low:high].tolist()
        maximum = float(evidence.maximum[unit])
        assert np.array(shown) / 1_000 * maximum == pytest.approx(acts[context, low:high], abs=0.0011 * maximum)
        # A token's own likelihood is decided one token before it; the first of a context has nobody before it.
        own = np.concatenate([[0], effects[context]])[low:high]
        assert np.array(nats) / 1_000 == pytest.approx(own, abs=0.0006)
    assert card["examples"][0][0][1][card["examples"][0][0][3]] == 1_000
    silent = card["examples"][-1]
    assert silent
    assert all(shown[centre] == 0 for _, shown, _, centre in silent)


def test_a_feature_that_never_fires_has_no_examples(folder):
    card, columns = read(folder / "A-1" / "cards-000.json")[3], read(folder / "A-1" / "index.json")
    assert (columns["density"][3], columns["max"][3], columns["label"][3], columns["top"][3]) == (0, 0, -1, [])
    assert [len(group) for group in card["examples"][:-1]] == [0] * 12


def test_the_text_view_lists_the_strongest_of_each_token(folder, lab):
    text, found = read(folder / "texts.json")[0], read(folder / "A-1" / "text-00.json")
    acts = acts_of(lab, "A/1", [text["tokens"]])[0]
    for i, units in enumerate(found["units"]):
        assert found["active"][i] == int((acts[i] > 0).sum())
        assert len(units) == min(browser.PER_TOKEN, found["active"][i])
        assert found["acts"][i] == pytest.approx(acts[i, units].tolist(), rel=0.01)
        assert found["acts"][i] == sorted(found["acts"][i], reverse=True)


def test_the_map_places_every_feature_that_fires_once(folder):
    found = read(folder / "map.json")
    fired = [[unit for unit, share in enumerate(read(folder / name / "index.json")["density"]) if share] for name in ("A-0", "A-1")]
    assert list(zip(found["set"], found["unit"], strict=True)) == [(i, unit) for i, units in enumerate(fired) for unit in units]
    assert min(found["x"] + found["y"]) == 0
    assert max(found["x"] + found["y"]) == 1_000
    assert [cluster["n"] for cluster in found["clusters"]] == [found["cluster"].count(i) for i in range(len(found["clusters"]))]


def test_relatives_lead_to_units_that_are_there(folder):
    cards = {
        f"{found['name']}/{card['unit']}": card
        for found in read(folder / "atlas.json")["sets"]
        for path in (folder / found["folder"]).glob("cards-*.json")
        for card in read(path)
    }
    relations = ("twins", "alike", "parents", "children")
    assert all(any(card.get(name) for card in cards.values()) for name in relations)
    for own, card in cards.items():
        for relation in relations:
            rows = card.get(relation, [])
            assert all(f"{name}/{unit}" in cards and all(-1 <= value <= 1 for value in values) for name, unit, *values in rows)
            assert own not in {f"{name}/{unit}" for name, unit, *_ in rows}
        assert all(0 <= row[0] < 40 for row in card.get("nearest", []))
        assert all(0 <= row[0] < 32 for row in card.get("aligned", []) + card["neurons"])
    assert {name for card in cards.values() for name, *_ in card.get("children", [])} == {"A/1", "A/2"}


def test_a_child_is_the_feature_of_its_number(folder, lab):
    columns = read(folder / "A-2" / "index.json")
    acts = acts_of(lab, "A/2", lab.truth.tokens).flatten(0, 1)
    opened = [unit for unit, density in enumerate(columns["density"]) if density is not None]
    assert 0 < len(opened) < 48
    assert [columns["density"][unit] for unit in opened] == pytest.approx((acts > 0).float().mean(0)[opened].tolist(), rel=0.01)
    assert [columns["max"][unit] for unit in opened] == pytest.approx(acts.amax(0)[opened].tolist(), rel=0.01)


def test_nothing_written_can_hide_or_turn_round_text(folder, lab):
    vocab = read(folder / "vocab.json")
    assert "script" in vocab
    assert not any(re.search("[\0-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\ud800-\udfff]", text) for text in vocab)
    table = TokenTable(lab.tokenizer)
    assert vocab[table.bytes_of.index(b"\0")] == r"\u{0}"
    assert read(folder / "atlas.json")["texts"][0] == HALF_A_PAIR.replace("\ud800", r"\u{d800}")


def test_opinions_stand_beside_their_units(folder, lab):
    columns = read(folder / "A-1" / "index.json")
    scored = [unit for unit, score in enumerate(columns["score"]) if score is not None]
    assert 3 not in scored
    assert len(scored) > 2
    assert {columns["explanation"][unit] for unit in scored} == {r"<b>turned \u{202e} round"}
    assert [columns["score"][3], columns["explanation"][3]] == [None, ""]
    counts, table = lab.shards.train.unigram_counts(600), TokenTable(lab.tokenizer)
    said = opinions(Hostile(), lab.model("A"), lab.dictionary("A/1"), torch.from_numpy(lab.truth.tokens), scored[:2], table, counts)
    assert [columns["score"][unit] for unit in scored[:2]] == pytest.approx(said["score"].tolist(), abs=1e-3)


def test_without_a_judge_there_are_no_opinions(lab, tmp_path):
    columns = read(write_atlas(tmp_path / "data", lab, SIZES, lab.truth, lab.passages) / "A-0" / "index.json")
    assert set(columns["score"]) == {None}
    assert set(columns["explanation"]) == {""}


def test_what_a_longer_look_found_is_kept_and_taken(folder, lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert browser.kept_opinions(lab) is None
    monkeypatch.setattr(browser, "atlas", lambda lab, progress: folder)
    path = browser.keep_opinions(lab)
    assert path == tmp_path / "results" / "tiny" / "browser.json"
    known = browser.kept_opinions(lab)
    sizes = SIZES._replace(n_tokens=64)
    quick = write_atlas(tmp_path / "quick", lab, sizes, lab.truth.part(slice(0, 4)), lab.passages, known=known)
    for name in ("A-0", "A-1", "B-1", "A-neurons"):
        long, short = read(folder / name / "index.json"), read(quick / name / "index.json")
        assert long["density"] != short["density"]
        assert all(long[column] == short[column] for column in ("label", "f1", "precision", "explanation", "score"))
    assert read(quick / "atlas.json")["judged"] == read(folder / "atlas.json")["judged"]
    with monkeypatch.context() as other:
        other.setattr(lab, "config", lambda name: {"name": name, "seed": 1}, raising=False)
        assert browser.kept_opinions(lab) is None
    for damaged in ("[]", "{", path.read_text().replace('"score":[', '"score":[0,', 1)):
        path.write_text(damaged)
        with pytest.raises(BookError, match=r"browser\.json is damaged"):
            browser.kept_opinions(lab)


def test_a_label_counts_where_it_can_be_judged(lab, tmp_path, monkeypatch):
    tokens = lab.truth.tokens
    acts = acts_of(lab, "B/1", tokens)
    unit = int((acts > 0).sum((0, 1)).sub(acts[..., 0].numel() // 4).abs().argmin())
    labels = lab.truth.labels
    sets = np.zeros((2, len(labels)), bool)
    sets[1, labels.index("script/arabic")] = True
    truth = LabelledText(tokens, (acts[..., unit] > 0).numpy().astype(np.uint16), sets, labels)
    monkeypatch.setattr(lab, "truth", truth)
    monkeypatch.setenv("SAE_BOOK_RUNS", str(tmp_path))
    # The examples come from another text, in which nothing has that label.
    found = write_atlas(tmp_path / "data", lab, SIZES, LabelledText(tokens, np.zeros_like(truth.codes), sets[:1], labels), lab.passages)
    assert read(found / "atlas.json")["judged"] == {"tokens": tokens.size, "labels": 1}
    columns = read(found / "B-1" / "index.json")
    assert columns["label"][unit] == labels.index("script/arabic")
    assert columns["f1"][unit] > 0.99


def test_sizes_are_positive(lab, tmp_path):
    with pytest.raises(BookError, match="n_each is 0"):
        write_atlas(tmp_path / "data", lab, SIZES._replace(n_each=0), lab.truth, lab.passages)


def test_an_atlas_is_kept(lab, tmp_path, monkeypatch):
    monkeypatch.setenv("SAE_BOOK_RUNS", str(tmp_path))
    asked = []

    def write(folder, *given, judge, **options):
        asked.append((folder, judge and judge.name))
        folder.mkdir()
        return folder

    monkeypatch.setattr(browser, "write_atlas", write)
    quick = browser.atlas(lab, quick=True)
    assert browser.atlas(lab, quick=True) == quick
    whole = browser.atlas(lab)
    assert browser.atlas(lab, quick=True) == browser.atlas(lab) == whole
    assert asked == [(quick, None), (whole, "rules")]
    monkeypatch.setattr(lab, "config", lambda name: {"name": name, "seed": 1}, raising=False)
    assert browser.atlas(lab) != whole


def test_a_copy_replaces_an_older_one_and_nothing_else(folder, tmp_path):
    target = tmp_path / "there"
    put(folder, target)
    (target / "stale.json").write_text("{}")
    put(folder, target)
    assert sorted(path.name for path in target.iterdir()) == sorted(path.name for path in folder.iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(BookError, match="holds no data of the browser"):
        check_room(tmp_path / "mine")
    with pytest.raises(BookError, match="holds no data of the browser"):
        put(folder, tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    # Newer Pythons say that it is not there.
    with pytest.raises(BookError, match=r"x cannot be read: File name too long|could not write"):
        put(folder, tmp_path / ("x" * 300))


def test_texts_are_of_every_stratum():
    found = passages_of_every_stratum()
    assert len(found) == browser.N_TEXTS
    assert {passage.name.rsplit(" ", 1)[0] for passage in found} == set(STRATA)
    assert len({passage.document.text for passage in found}) == browser.N_TEXTS


def test_the_command_needs_a_place_of_its_own(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for arguments, said in ((["atlas"], "there is no rendered book"), (["atlas", "--out", str(tmp_path)], "holds no data of the browser")):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 1
        assert said in capsys.readouterr().err


def test_the_book_takes_the_runs_of_its_chapters(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("sae_lib.lab.Lab", lambda *given: given)
    monkeypatch.setattr(browser, "atlas", lambda lab, quick, progress: asked.append(lab) or tmp_path)
    monkeypatch.setattr(build, "declared_parameters", lambda path: {"SCALE": "smoke", "SEED": 0, "CORPUS": ""})
    assert build.browser_data(build.Chapter(tmp_path, "chapters/01_one", {"SEED": 3})) == tmp_path
    assert asked == [("smoke", 3, "")]


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("pages", [["book/index"], ["book/index", build.BROWSER]])
def test_the_built_book_holds_the_data_if_it_has_the_page(monkeypatch, tmp_path, pages, at_once):
    def run_chapters(chapters, site, at_once, beside):
        return dict.fromkeys((*beside, *(chapter.name for chapter in chapters)), 1.0)

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "atlas.json").write_text("{}")
    html = tmp_path / "_site" / "_build" / "html"
    monkeypatch.setattr(build, "plan", lambda root, parameters: [build.Chapter(tmp_path, "chapters/01_one", {})])
    monkeypatch.setattr(build, "_at_once", lambda chapters: at_once)
    monkeypatch.setattr(build, "_scales", lambda chapters: [])
    monkeypatch.setattr(build, "run_chapters", run_chapters)
    monkeypatch.setattr(build, "book_pages", lambda root: pages)
    monkeypatch.setattr(build, "render", lambda root, site: html.mkdir(parents=True) or html)
    monkeypatch.setattr(build, "browser_data", lambda chapter: tmp_path / "data")
    build.build_book(root=tmp_path)
    assert (html / "browser" / "atlas.json").is_file() == (build.BROWSER in pages)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_the_page_makes_text_of_whatever_comes(path):
    source = path.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|DOMParser", source)
    assert set(re.findall(r"https?://[^\"]+", source)) <= {"http://www.w3.org/2000/svg"}
    assert all(name.startswith("./") for name in re.findall(r'from "([^"]+)"', source))
    assert max(map(len, source.splitlines())) <= 140
