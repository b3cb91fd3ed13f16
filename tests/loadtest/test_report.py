"""The report: what a stranger reads first is the verdict, nothing is loaded, nothing of a server is believed."""

from __future__ import annotations

import re
from functools import cache
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from loadtest.client_limit import limits
from loadtest.figures import figures
from loadtest.percentiles import Percentiles
from loadtest.record import Record
from loadtest.report import page
from loadtest.report.curves import curves
from loadtest.report.plot import LOOKS
from loadtest.run import Client, Run, Sample, Study
from loadtest.slo import Slo
from tests.loadtest import made
from tests.loadtest.chromium import Chromium, installed

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>alert('x')</script><img src=http://example.com/x.png>"
SLO = Slo.default().as_json()
OVERLOAD = made.System(errors=0.0).capacity * 1.5


class Read(HTMLParser):
    """Texts by tag, and every address that a page names."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data

    @property
    def text(self) -> str:
        return self.texts["html"][0]


def one(rate: float = 6.0, slo: dict[str, float] | None = None, **options: Any) -> Study:
    """A study of one made run."""
    options = {"system": made.System(errors=0.0), "duration_s": 40.0, **options}
    study = made.study([rate], 1, **options)
    study.slo = SLO if slo is None else slo
    return study


def sweep(sure: bool = True, **found: Any) -> Study:
    rates = [4.0, 8.0, 8.0, OVERLOAD]
    study = made.study(rates, 1, made.System(errors=0.0), duration_s=40.0, gaps=False)
    study.kind, study.slo = "sweep", {"ttft_p95_s": 2.0}
    levels = [
        {"rate": 4.0, "runs": [0], "met": True, "void": False},
        {"rate": 8.0, "runs": [1, 2], "met": True, "void": False},
        {"rate": OVERLOAD, "runs": [3], "met": False, "void": False},
    ]
    study.found = {"rate": 8.0, "above": OVERLOAD, "sure": sure, "why": "8/s held twice", "levels": levels, **found}
    return study


@cache
def swept() -> str:
    return page(sweep())


def headline(study: Study) -> str:
    return headline_of(page(study))


def headline_of(html: str) -> str:
    return Read(html).texts["h1"][0]


def test_good_run() -> None:
    """A run that kept its SLO says so, and at which load."""
    study = one()
    read = Read(page(study))
    assert read.texts["h1"] == ["Keeps the SLO at 6 questions a second"]
    assert "SLO KEPT" in read.text
    assert "360 people who each ask once a minute" in read.text
    assert f"{figures(study.runs[0]).requests:,} of " in read.text


def test_failed_run() -> None:
    """The first thing read is what was not kept, by how much."""
    found = headline(one(OVERLOAD, slo={"ttft_p95_s": 2.0}))
    assert re.match(
        r"Does not keep the SLO at [\d.]+ questions a second: TTFT p95 is [\d.]+ s, allowed are 2 s$", found
    )


def test_close_miss() -> None:
    """A value that would round to its bound is written out until both differ."""
    study = one()
    of = figures(study.runs[0])
    assert of.ttft.p95 is not None
    study.slo = {"ttft_p95_s": of.ttft.p95 - 1e-6}
    value, bound = re.findall(r"([\d.]+) ms", headline(study))
    assert value != bound


@pytest.mark.parametrize(
    ("busy", "late_s", "said", "advice"),
    [
        (0.93, 0.0, "client-0 used 93% of a core (limit 70%)", "Use more processes"),
        (0.1, 0.2, r"requests were sent 2\d\d\.\d ms late \(p99; limit [\d.]+ ms\)", "Give it a core of its own"),
    ],
)
def test_void_run(busy: float, late_s: float, said: str, advice: str) -> None:
    """A void run is no verdict: neither its sentence nor one of its figures is marked as kept."""
    study = one()
    run = study.runs[0]
    run.clients[:] = [Client("client-0", busy)]
    for record in run.records:
        record.dispatch_s = late_s
    run.void = limits(run)
    read = Read(page(study))
    assert re.fullmatch(f"The load tester was the limit: {said if late_s else re.escape(said)}", read.texts["h1"][0])
    assert "VOID: this test says nothing about the server" in read.text
    assert advice in read.text
    assert "SLO KEPT" not in read.text
    assert not [text for text in read.texts["dd"] if "✓" in text]


def test_refused() -> None:
    """Where nothing was answered, that is the verdict, with what the server said."""
    run = Run({"kind": "open", "arrivals": "constant:2", "rate": 2.0}, 10.0)
    for number in range(20):
        run.add(Record("stream", number / 2, total_s=0.001, error="refused", message="nobody listens on port 8000"))
    read = Read(page(Study([run], slo=SLO)))
    assert read.texts["h1"] == ["Nothing was answered: all 20 requests failed (refused)"]
    assert "nobody listens on port 8000" in read.text
    assert read.text.count("not known") > 3


@pytest.mark.parametrize(
    "study", [Study([]), Study([Run({"kind": "closed", "users": 3, "rate": None}, 10.0)], slo=SLO)]
)
def test_empty(study: Study) -> None:
    """A study without runs, or without requests, has a page that says so."""
    assert headline(study) == "No request was meant to start in the measured part"


def test_no_slo() -> None:
    """Without an SLO there is no verdict, but there are figures."""
    read = Read(page(one(slo={})))
    assert "NO SLO GIVEN" in read.text
    assert read.texts["h1"][0].startswith("Answers ")


def test_users() -> None:
    """A closed loop is named by its users."""
    study = one()
    study.runs[0].load = {"kind": "closed", "users": 12, "rate": None}
    assert re.match(r"Keeps the SLO with 12 users, who ask [\d.]+ questions a second$", headline(study))


def test_changing_load() -> None:
    """A load that changes is not named by its mean rate alone; one that came out otherwise by chance says so."""
    study = one()
    study.runs[0].load = {"kind": "open", "arrivals": "ramp:1-11", "rate": 6.0}
    assert re.match(r"Keeps the SLO under ramp:1-11, [\d.]+ questions a second on average$", headline(study))
    study.runs[0].load = {"kind": "open", "arrivals": "poisson:9", "rate": 9.0}
    assert re.search(r"By chance [\d.]+ a second came, not 9\.", Read(page(study)).text)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "Holds 8 questions a second (28,800 an hour) within the SLO"),
        ({"sure": False}, "Holds about 8 questions a second (28,800 an hour) within the SLO"),
        ({"above": None}, "Holds at least 8 questions a second (28,800 an hour) within the SLO"),
    ],
)
def test_sweep(found: dict[str, Any], said: str) -> None:
    """The sentence of a sweep says how sure it is."""
    read = Read(page(sweep(**found)))
    assert read.texts["h1"] == [said]
    assert ("NOT YET SURE" in read.text) is not found.get("sure", True)
    assert "8/s held twice." in read.text


def test_sweep_that_its_client_ended() -> None:
    """Void levels are marked as such, and the rate found is a least one."""
    study = sweep(sure=False, above=None)
    study.runs[3].void = ["the load tester was the limit"]
    assert study.found
    study.found = {**study.found, "levels": [*study.found["levels"][:2], {**study.found["levels"][2], "void": True}]}
    html = page(study)
    assert headline_of(html).startswith("Holds at least 8 questions a second")
    assert [row[1] for row in _rows(html, "All levels")] == ["✓ kept", "✓ kept (2 of 2 runs)", "! void"]
    assert 'href="#markvoid"' in html


def test_level_against_the_others() -> None:
    """A level that was missed below the rate found is said to be, and drawn as unsure."""
    study = sweep()
    assert study.found
    lowest = {**study.found["levels"][0], "met": False}
    study.found = {**study.found, "levels": [lowest, *study.found["levels"][1:]]}
    html = page(study)
    assert "4/s did not keep it, though faster levels did" in Read(html).text
    assert "unsure: other levels say otherwise" in html


def test_bound_in_sight() -> None:
    """Where all values are far below the bound, it is drawn above them, not through them."""
    plot = curves("Gaps", [("gap", Percentiles.of([1e-6] * 50))], (0.2, "SLO"))
    assert plot is not None
    assert plot.y.at(1e-6) < 0.01 < 0.7 < plot.y.at(0.2) < 1


def test_sweep_without_answer() -> None:
    """Where no rate kept the SLO, the lowest one says why not."""
    study = made.study([OVERLOAD], 1, made.System(errors=0.0), duration_s=40.0, gaps=False)
    study.slo = {"ttft_p95_s": 2.0}
    study.found = {
        "rate": None,
        "above": OVERLOAD,
        "sure": True,
        "why": "",
        "levels": [{"rate": OVERLOAD, "runs": [0], "met": False, "void": False}],
    }
    assert headline(study).startswith("Does not keep the SLO, not even at ")


def test_levels_are_their_runs_together() -> None:
    """The figures of a level are those of all its runs in one, not means of them."""
    both = sum(figures(run).requests for run in sweep().runs[1:3])
    row = next(cells for cells in _rows(swept(), "All levels") if cells[0] == "8/s")
    assert row[2:4] == ["2", f"{both:,}"]


def test_serving_side() -> None:
    """Replicas, nodes and what happened to them are drawn; deployments that stay the same are only named."""
    study = one()
    run = study.runs[0]
    run.samples = [
        Sample(float(at), {"Llm": 0 if at < 20 else 1, "Api": 2}, {"Llm": 1, "Api": 2}, 1, 1) for at in range(-2, 44, 2)
    ]
    run.events = [{"t_s": 20.0, "what": "replica gained", "detail": "Llm: gpu-1"}]
    study.cost = {"currency": "USD", "gpu": "L4", "gpu_hour": 0.81, "gpu_minutes": 1.0, "per_1000_answers": 0.42}
    read = Read(page(study))
    assert "Replicas of Llm" in read.texts["h3"]
    assert "stayed the same all the time: Api 2." in read.text
    assert "Llm: gpu-1" in read.text
    assert "0.42 USD" in read.text


def test_unknown_cost() -> None:
    """Without GPUs an answer has no known cost, which is not a cost of 0."""
    study = one()
    study.cost = {"currency": "USD", "gpu": None, "gpu_hour": None, "gpu_minutes": 0.0, "per_1000_answers": None}
    study.cost = {**study.cost, "note": "no GPU: no node of the deployment had one"}
    tile = next(text for text in Read(page(study)).texts["div"] if text.startswith("Cost of 1,000"))
    assert "not known" in tile
    assert "no GPU: no node" in tile
    assert not re.search(r"None\b(?!: all)", Read(page(study)).text)


def test_hostile() -> None:
    """Whatever servers, models and questions are called is written as text, and loads nothing."""
    study = one()
    run = study.runs[0]
    for record in run.records[::7]:
        record.error, record.message = HOSTILE, HOSTILE
    run.records[0].stages_s = {HOSTILE: 0.1, "first_token": 0.2}
    run.events, run.void = [{"t_s": 1.0, "what": HOSTILE, "detail": HOSTILE}], [HOSTILE]
    run.samples = [Sample(0.0, {HOSTILE: 1}), Sample(9.0, {HOSTILE: 2})]
    run.clients = [Client(HOSTILE, 0.1, [0.1])]
    study.settings = {"model": HOSTILE, HOSTILE: [HOSTILE, {HOSTILE: None}]}
    study.target, study.machine, study.cost = {"url": HOSTILE}, {"command": HOSTILE}, {"note": HOSTILE, "gpu": HOSTILE}
    html = page(study)
    read = Read(html)
    assert HOSTILE in read.text
    assert not {"script", "img", "link", "iframe", "form"} & set(read.tags)
    assert "<script" not in html


def test_self_contained() -> None:
    """No address in it leads out of the file, and its policy allows none."""
    html = swept()
    read = Read(html)
    assert read.addresses
    assert all(address.startswith("#") for address in read.addresses)
    assert not re.search(r"url\((?!#)|@import", html)
    assert "default-src &#39;none&#39;" in html
    assert " style=" not in html


def test_tables_have_headings() -> None:
    """Every table has a caption and headings of columns and rows; every plot says what it shows."""
    html = swept()
    read = Read(html)
    assert read.tags.count("caption") == read.tags.count("table") > 5
    assert html.count('scope="row"') == sum(len(rows) for rows in _tables(html).values())
    plots = html.count('role="img"')
    assert plots == read.tags.count("desc") > 5
    assert all(len(text.split()) > 3 for text in read.texts["desc"])


@pytest.mark.parametrize("dark", [False, True])
def test_contrast(dark: bool) -> None:
    """Letters and lines stand out from what is behind them by 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    light, rest = (ROOT / "loadtest/report/style.css").read_text("utf-8").split("@media (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light + (rest.split("@media")[0] if dark else "")))
    pairs = [(name, "paper") for name in ("ink", "soft", "good", "bad", *(f"look{look}" for look in range(LOOKS)))]
    pairs += [(name, f"{sign}-tint") for sign in ("good", "bad") for name in ("ink", sign)] + [("void", "void-tint")]
    low = [pair for pair in pairs if _contrast(*(colours[name] for name in pair)) < 4.5]
    assert not low


def test_small() -> None:
    """Thirty runs of five thousand requests make a page below 2 MB."""
    run = made.run(10.0, 1, made.System(), duration_s=500.0, gaps=False)
    assert len(run.records) > 4_500
    study = Study([run], slo=SLO)
    study.runs = [run, run]
    assert 15 * len(page(study)) < 2_000_000


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Chromium:
    return installed(tmp_path_factory.mktemp("chromium"))


def test_opens_in_a_browser(chromium: Chromium, tmp_path: Path) -> None:
    """Chromium without a network opens it with nothing to complain of."""
    path = tmp_path / "report.html"
    path.write_text(swept(), "utf-8")
    assert headline_of(chromium.dom(path)) == "Holds 8 questions a second (28,800 an hour) within the SLO"


@pytest.mark.parametrize("width", [340, 390, 1280, 1920])
def test_fits(chromium: Chromium, tmp_path: Path, width: int) -> None:
    """It is no wider than its window: what is wider scrolls within."""
    path = tmp_path / "window.html"
    look = "document.title = document.querySelector('iframe').contentDocument.documentElement.scrollWidth"
    frame = f"<iframe width={width} height=900 srcdoc='{escape(swept())}' onload=\"{look}\"></iframe>"
    path.write_text(f"<!doctype html><title></title>{frame}", "utf-8")
    assert int(Read(chromium.dom(path)).texts["title"][0]) <= width


def test_browser_would_complain(chromium: Chromium, tmp_path: Path) -> None:
    """The check itself can fail: a page that asks for something is found out."""
    path = tmp_path / "report.html"
    path.write_text(page(one()).replace("</body>", "<img src='http://example.com/x.png'></body>"), "utf-8")
    with pytest.raises(AssertionError, match=r"example\.com"):
        chromium.dom(path)


def _contrast(*colours: str) -> float:
    darker, lighter = sorted(map(_luminance, colours))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _tables(html: str) -> dict[str, list[list[str]]]:
    """Cells by caption and row."""
    found = {}
    for table in re.findall(r"<table>.*?</table>", html, re.DOTALL):
        read = Read(table)
        body = re.search(r"<tbody>(.*?)</tbody>", table, re.DOTALL)
        rows = re.findall(r"<tr>(.*?)</tr>", body[1] if body else "", re.DOTALL)
        found[read.texts["caption"][0]] = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return found


def _rows(html: str, caption: str) -> list[list[str]]:
    return _tables(html)[caption]
