"""The scorecard: the ledger beside what the chapters stored."""

import json
import re

import pytest

from sae_lib import page, scorecard
from sae_lib.claims import CLAIMS
from sae_lib.errors import BookError

CHAPTER = "05_sparse_autoencoder"
N_COUNTED = sum(row.part in "ABCDE" for row in CLAIMS.values())


def store(project, scale, *entries, chapter=CHAPTER):
    """What `page.verdicts` would keep."""
    folder = project / "results" / scale
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{chapter}.json").write_text(json.dumps({"chapter": chapter, "scale": scale, "claims": list(entries)}))


def entry(verdict, claim=16, **more):
    return {"claim": claim, "verdict": verdict, "values": {"loss_recovered": 0.79, "l0": 14.0, "<b>": 1.0}} | more


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two chapters: one measures claims 2, 16 and 52, the other none."""
    (tmp_path / "_config.yml").touch()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "chapters").mkdir()
    for name, title, glance in (
        (CHAPTER, "The <i>dictionary</i>", "| Claims | C2 one, C16 two, C52 three |"),
        ("16_scorecard", "Scorecard", "| Claims | none |"),
    ):
        cells = [{"cell_type": "markdown", "source": ["(ch-x)=\n", f"# {title}\n"]}, {"cell_type": "markdown", "source": glance}]
        (tmp_path / "chapters" / f"{name}.ipynb").write_text(json.dumps({"cells": cells}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(page.RENDERER, raising=False)
    return tmp_path


def rows_of(html):
    return re.findall(r"<tr[ >].*?</tr>", html.split("<tbody>")[1])


def test_every_claim_that_counts_has_a_row_and_others_when_they_are_measured(project):
    rows = rows_of(scorecard.table().data)
    assert len(rows) == N_COUNTED + 1  # claim 52 of part F is measured
    assert sum("not measured yet" in row for row in rows) == N_COUNTED - 2
    assert "53. " not in scorecard.table().data
    assert "<i>" not in scorecard.table().data


def test_each_scale_with_results_is_a_column_the_reference_first(project):
    store(project, "colab", entry("fails", reason="the criterion asks for more"))
    store(project, page.REFERENCE_SCALE, entry("holds", interval=[0.78, 0.8], n=500, unit="tokens", reason=""))
    html = scorecard.table().data
    headings = re.findall(r'<th scope="col">(.*?)</th>', html)
    assert headings == ["claim", "paper", f"reference run ({page.REFERENCE_SCALE})", "colab", "measured in"]
    (row,) = [row for row in rows_of(html) if ">16. " in row]
    assert "loss recovered 0.79<br>l0 14<br>95% interval 0.78 to 0.8<br>n 500 tokens" in row
    assert row.index("<strong>holds</strong>") < row.index("<strong>fails</strong>")
    assert "the criterion asks for more" in row
    assert "loss recovered from 0.6 to 0.95; l0 from 5 to 30" in row  # the band, fixed beforehand
    assert "b&gt;" not in row  # further values stay on the chapter's page


def test_an_interval_of_another_value_says_so(project):
    store(project, "colab", entry("holds", interval=[13.5, 14.5], of="l0"))
    assert "l0 14<br>95% interval of l0 13.5 to 14.5" in scorecard.table().data


def test_old_results_without_intervals_are_read(project):
    store(project, "colab", entry("holds"))
    assert "<strong>holds</strong>" in scorecard.table().data


def test_filters_name_every_row(project):
    store(project, page.REFERENCE_SCALE, entry("not testable here"))
    html = scorecard.table().data
    assert "<script" not in html
    assert "http" not in html
    (row,) = [row for row in rows_of(html) if ">16. " in row]
    assert 'data-part="B" data-verdict="not-testable-here"' in row
    values = set(re.findall(r'data-verdict="([\w-]+)"', "".join(rows_of(html))))
    assert values == {"not-testable-here", "none"}
    for name, value in re.findall(r'data-(part|verdict)="([\w-]+)"', "".join(rows_of(html))):
        assert f'id="sae-{name}-{value}"' in html
        assert f':has(#sae-{name}-{value}:checked) tbody tr:not([data-{name}="{value}"])' in html


def test_links_go_to_where_the_chapter_judges(project, monkeypatch):
    assert f'href="{CHAPTER}.ipynb#Verdict"' in scorecard.table().data
    monkeypatch.setenv(page.RENDERER, "book")
    assert f'href="{CHAPTER}.html#verdict"' in scorecard.table().data


def test_verdicts_are_counted(project):
    store(project, "colab", entry("fails"), entry("holds", 52))
    store(project, page.REFERENCE_SCALE, entry("holds"), entry("partly", 2))
    assert list(scorecard.tally(page.REFERENCE_SCALE).values()) == [1, 1, 0, 0, N_COUNTED - 2, N_COUNTED]
    rows = [re.findall(r">(\d+)<", row) for row in rows_of(scorecard.counts().data)]
    # holds, partly, fails, not testable here, no result stored, together; part F is not counted
    assert rows == [["1", "1", "0", "0", str(N_COUNTED - 2), str(N_COUNTED)], ["0", "0", "1", "0", str(N_COUNTED - 1), str(N_COUNTED)]]


def test_summary_is_one_line_of_the_stored_numbers(project):
    assert f"Of {N_COUNTED} claims" in scorecard.summary()
    assert f"{N_COUNTED} have no stored result" in scorecard.summary()
    store(project, page.REFERENCE_SCALE, *(entry("holds", number) for number in (2, 16)))
    assert f"2 hold, 0 hold partly, 0 fail, 0 cannot be tested at that size, and {N_COUNTED - 2} have" in scorecard.summary()
    assert scorecard.summary().count("\n") == 1


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_file_is_named(project, content):
    (project / "chapters" / f"{CHAPTER}.ipynb").write_text(content)
    with pytest.raises(BookError, match=rf"{CHAPTER}\.ipynb .*\. Restore it from the repository"):
        scorecard.table()


def test_a_damaged_result_is_named(project):
    store(project, "colab", {"claim": 16})
    with pytest.raises(BookError, match="is no result of chapter"):
        scorecard.table()
