"""The page and the picture: all rows, nothing from elsewhere, no markup from data."""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.bench.page import made
from vitkern.bench.page import chart, render
from vitkern.bench.page.history import entries
from vitkern.bench.page.lines import Stored, load

VOID = {"meta", "input", "br", "link", "img"}


class Reader(HTMLParser):
    """Collects tags and attributes; fails where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    made.write(tmp_path, "models", [made.model()], "2026-11-20")
    made.write(tmp_path, "models", [made.model(patched=0.15, share=0.5)], "2026-11-21")
    made.write(tmp_path, "ops", [made.op(), made.op("mlp-cpu-vit-s-bfloat16")])
    made.write(tmp_path, "peers", [made.peers()])
    made.write(tmp_path, "coverage", [])
    return load(tmp_path)


def test_every_entry_is_a_row_and_every_figure_is_there(stored: Stored) -> None:
    page = Reader(render.page(stored))
    rows = [one for one in page.named("tr") if "data-subject" in one]
    assert len(rows) == len(entries(stored.lines)) == 1 + 2 + 7
    for figure in ("150", "1.33×", "50%", "(40%)", "20 (30)", "4.0e-07", "(3.0e-07)", "avx2"):
        assert figure in page.text
    assert "coverage" in page.text
    assert page.text.count("ONNX Runtime, float32: not installed: pip install it") == 1
    assert "Acme One, 2 threads, avx2" in page.text


def test_a_share_of_another_form_is_marked(tmp_path: Path) -> None:
    """Older files have shares of float32's peak only."""
    entries = [made.entry("eager", "fp32", 0.2), made.entry("vitkern bf16", "bf16", 0.1)]
    made.write(tmp_path, "peers", [made.peers(entries=entries)])
    assert Reader(render.page(load(tmp_path))).text.count("50%*") == 1
    entries[1]["form"] = "bfloat16"
    made.write(tmp_path, "peers", [made.peers(entries=entries)])
    assert Reader(render.page(load(tmp_path))).text.count("50%*") == 0


def test_a_regression_is_marked_in_words(stored: Stored) -> None:
    page = Reader(render.page(stored))
    assert "▲ 1 slower than before" in page.text
    assert page.text.count("▲ slower -33%") == 2  # in the list, and in the table
    assert "2026-11-20: 100 ms, 2.00× eager, 80% of the peak" in page.text
    assert [row["data-change"] for row in page.named("tr") if row.get("data-change")] == ["slower"]


def test_nothing_is_loaded_from_elsewhere(stored: Stored) -> None:
    text = render.page(stored)
    page = Reader(text)
    assert page.named("link") == page.named("img") == page.named("iframe") == []
    assert all(set(one) == set() for one in page.named("script"))
    assert all("src" not in attributes for _, attributes in page.tags)
    assert all(str(one.get("href")).startswith("#") for one in page.named("a"))
    assert "url(" not in text
    assert "@import" not in text
    assert "fetch(" not in text
    assert "://" not in text


def test_tables_say_what_they_are(stored: Stored) -> None:
    """Roles as well: the cards of narrow screens are no table by their style."""
    page = Reader(render.page(stored))
    assert len(page.named("table")) == len(page.named("caption")) == 2
    heads = [one for one in page.named("th") if one.get("scope") == "col"]
    cells = page.named("td")
    assert all(one["role"] == "columnheader" for one in heads)
    assert all(one["role"] == "cell" and one["data-label"] for one in cells)
    assert len(heads) == 12 + 10
    assert len(cells) == 8 * (12 - 1) + 2 * (10 - 1)


def test_data_is_no_markup(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>'
    row = made.VIT | {"model": evil}
    made.write(tmp_path, "models", [made.model(row=row)])
    made.write(tmp_path, "peers", [made.peers(row=row)], machine={"cpu": evil})
    stored = load(tmp_path)
    page = Reader(render.page(stored))
    assert len(page.named("script")) == 1
    assert page.text.count("alert(1)") > 3
    assert "<script" not in render.draw(stored)
    xml.fromstring(render.draw(stored))


def test_machines_are_told_apart_and_one_can_be_first(tmp_path: Path) -> None:
    made.write(tmp_path, "models", [made.model()], "2026-11-21")
    other = {"slug": "acme-two", "cpu_id": "family 9"}
    made.write(tmp_path, "models", [made.model()], "2026-11-20", machine=other)
    stored = load(tmp_path)
    titles = [section.title for section in render.sections(stored)]
    assert titles == [
        "Acme One, 2 threads, avx2 (family 1 model 2 stepping 3)",
        "Acme One, 2 threads, avx2 (family 9)",
    ]
    assert render.sections(stored, "acme-two")[0].key == "acme-two-2"
    assert render.sections(stored, "acme")[0].slug == made.MACHINE["slug"]  # no such machine
    assert "Nothing was measured here twice yet" in Reader(render.page(stored)).text


def test_what_was_measured_again_is_counted(tmp_path: Path) -> None:
    for date, row in (("20", made.model()), ("21", made.model()), ("22", made.model(others=1.5))):
        made.write(tmp_path, "models", [row], f"2026-11-{date}")
    text = Reader(render.page(load(tmp_path))).text
    assert (
        "Nothing is slower than before beyond noise. Measured again: 1, of which 1 not judged."
        in text
    )


def test_incomplete_and_rough_files_say_so(tmp_path: Path) -> None:
    made.write(tmp_path, "models", [made.model()], quick=True, complete=False)
    text = Reader(render.page(load(tmp_path))).text
    assert "rough (few rounds), incomplete: it was interrupted" in text


def test_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(render.Nothing, match="there are no results"):
        render.page(load(tmp_path))
    made.write(tmp_path, "models", [made.model()])
    with pytest.raises(render.Nothing, match="beside peers"):
        render.draw(load(tmp_path))


def test_the_picture_has_the_machine_ours_and_the_best_of_the_others(stored: Stored) -> None:
    root = xml.fromstring(render.draw(stored))
    words = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert "Milliseconds a pass, × eager: Acme One, 2 threads, avx2" in words
    assert "vitkern, bfloat16" in words
    assert "torch.compile, frozen, bfloat16" in words
    assert not any("ONNX" in one for one in words)
    assert "60.0 ms  (3.33×)" in words
    bars = [e for e in root.iter() if e.tag.endswith("rect") and e.get("class") != "ground"]
    assert [bar.get("class") for bar in bars] == ["eager", "peer", "ours", "ours", "peer"]
    lengths = [float(bar.get("width") or 0) for bar in bars]
    assert lengths[2] / lengths[0] == pytest.approx(0.11 / 0.2, rel=1e-3)
    width = float(root.get("width") or 0)
    assert all(float(b.get("x") or 0) + float(b.get("width") or 0) < width - 100 for b in bars)


def test_a_bar_that_is_far_longer_than_eager_is_cut_and_the_others_are_not(
    tmp_path: Path,
) -> None:
    entries = [made.entry("eager", "fp32", 0.2), made.entry("Slow", "fp32", 2.0),
               made.entry("vitkern", "fp32", 0.1)]  # fmt: skip
    made.write(tmp_path, "peers", [made.peers(entries=entries)])
    stored = load(tmp_path)
    page = Reader(render.page(stored))
    bars = [one for one in page.named("span") if str(one.get("class")).startswith("bar")]
    assert [(one["class"], one["style"]) for one in bars] == [
        ("bar", "width:80.0%"), ("bar cut", "width:100.0%"), ("bar", "width:40.0%"),
    ]  # fmt: skip
    root = xml.fromstring(render.draw(stored))
    assert len([element for element in root.iter() if element.tag.endswith("path")]) == 1


def test_digits() -> None:
    assert [chart.digits(x) for x in (0.0389, 9.996, 59.0, 1387.6)] == [
        "0.0389", "10.0", "59.0", "1388",
    ]  # fmt: skip
