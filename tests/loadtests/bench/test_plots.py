"""Pictures and page of a report, drawn again from its JSON."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loadtests.bench.plots import CannotDraw, draw, main
from loadtests.bench.report import Figure, Report
from loadtests.bench.rows import FLOOR, Row
from loadtests.bench.stats import Interval


def report() -> Report:
    made = Report({"date": "2000-01-01", "machine": "a <machine>"})
    made.limits["encoder"] = {1: 600.0, 16: 3000.0, 32: 4000.0}
    for speed, system in ((1.0, "serving invocations"), (0.1, "Other 1.0 v2-json")):
        for connections in (1, 16, 64):
            rate = 1000 * connections * speed
            made.rows.append(Row(f"fraud-mlp/c{connections}", system, rate, 1.0, 9.0, 12.0, Interval(1.0, 0.9, 1.1)))
            made.rows.append(Row(f"encoder/c{connections}", system, rate / 20, 10.0, 90.0, to_limit=0.5))
        for share in (20, 50, 80):
            made.rows.append(Row(f"fraud-mlp/open {share} %", system, 640 * share * speed, 0.1 * share, share))
    made.rows.append(Row("fraud-mlp/c64", FLOOR, 40_000.0, 1.0, 2.0))
    made.rows.append(Row("peers", "Absent 2.0", note="no <network>"))
    made.figures.append(Figure("fraud-mlp/c16 invocations: p99 ms", 2.0, 2.0, 2.0))
    made.absent["Absent 2.0"] = "no <network>"
    made.notes.append("peers & this server share a core")
    return made


class Tags(HTMLParser):
    """The elements of a page, and the cells of its tables."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_report_becomes_pictures_and_a_page_that_loads_nothing(tmp_path: Path) -> None:
    source, folder = tmp_path / "report.json", tmp_path / "plots"
    source.write_text(report().json())
    assert main([str(source), str(folder)]) == 0
    names = ["encoder-latency", "encoder-requests", "fraud-mlp-latency", "fraud-mlp-open-loop", "fraud-mlp-requests"]
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.png" for name in names] + ["index.html"]
    assert all((folder / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in names)

    text = (folder / "index.html").read_text()
    page = Tags()
    page.feed(text)
    kinds = [tag for tag, _ in page.tags]
    assert kinds.count("svg") == len(names)
    assert not {"script", "link", "img", "iframe", "object"} & set(kinds)
    assert not [value for _, found in page.tags for name, value in found.items() if name == "src"]
    links = [value for _, found in page.tags for name, value in found.items() if name.endswith("href")]
    assert all(value is not None and value.startswith("#") for value in links)
    assert not re.search(r"@import|url\((?!#)", text)
    for part in ("serving invocations", "64,000 (1.00 / 9.00)", "no <network>", "machine: a <machine>", "missed"):
        assert part in page.texts, part


def test_every_id_of_the_page_is_its_own(tmp_path: Path) -> None:
    draw(report(), tmp_path)
    page = Tags()
    page.feed((tmp_path / "index.html").read_text())
    used = [str(found["xlink:href"])[1:] for _, found in page.tags if "xlink:href" in found]
    ids = [str(found["id"]) for _, found in page.tags if "id" in found]
    assert all(ids.count(name) == 1 for name in set(used))


def test_an_empty_report_is_told(tmp_path: Path) -> None:
    with pytest.raises(CannotDraw, match="the report has no measured row of fraud-mlp or encoder"):
        draw(Report({}), tmp_path)


def test_without_matplotlib_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CannotDraw, match="the plots need matplotlib: `pip install matplotlib`"):
        draw(report(), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), ("{}", "is not a report"), ("no JSON", "is not a report")],
)
def test_what_is_no_report_is_told(content: str | None, message: str, tmp_path: Path) -> None:
    source = tmp_path / "report.json"
    if content is not None:
        source.write_text(content)
    with pytest.raises(SystemExit, match=message):
        main([str(source), str(tmp_path / "plots")])
    with pytest.raises(SystemExit, match="usage: "):
        main([str(source)])
