"""What a verdict must not be read without."""

from __future__ import annotations

import re

from loadtest.record import Record
from loadtest.report import page
from loadtest.run import Run, Study

from .test_report import SLO, Read, headline, one, sweep


def test_answers_without_an_llm() -> None:
    """However quick they were: they say nothing about an LLM, and who reads the verdict learns it there."""
    for study in (one(), sweep()):
        assert "no LLM wrote them" not in Read(page(study)).text
        for record in study.runs[0].records[:200] if study.found is None else study.runs[1].records:
            record.outcome = "extractive"
        assert re.search(r"[\d,]+ of [\d,]+ answers were extractive: no LLM wrote them\.", Read(page(study)).text)


def test_fewer_than_were_meant() -> None:
    """Where chance made the load another one than the one that is named, the verdict says so, of a sweep too."""
    assert "By chance" not in Read(page(one())).text
    for study, runs in ((one(), (0,)), (sweep(), (1, 2))):
        for at in runs:
            study.runs[at].records = study.runs[at].records[::2]
        assert re.search(r"By chance [2-4][\d.]* a second came, not [68]\.", Read(page(study)).text)


def test_run_that_was_ended() -> None:
    """It kept the SLO for less time than it was meant to: that belongs to the verdict."""
    study = one()
    study.settings = {"duration_s": 40}
    assert "It was ended" not in Read(page(study)).text
    study.settings = {"duration_s": 600}
    assert "It was ended after 40 of 600 s." in Read(page(study)).text


def test_nothing_answered_at_any_level() -> None:
    """Nor asked at the first of them: a sweep that was ended has a page all the same."""
    runs = [Run({"kind": "open", "arrivals": f"poisson:{rate}", "rate": rate}, 10.0) for rate in (0.1, 2.0)]
    for number in range(20):
        runs[1].add(Record("stream", number / 2, total_s=0.001, error="refused", message="nobody listens"))
    levels = [{"rate": rate, "runs": [at], "met": False, "void": False} for at, rate in enumerate((0.1, 2.0))]
    found = {"rate": None, "above": 0.1, "sure": False, "chance": 0.5, "why": "", "limited": False, "levels": levels}
    study = Study(runs, kind="sweep", slo=SLO, found=found)
    assert headline(study) == "Nothing was answered: all 20 requests failed (refused)"
