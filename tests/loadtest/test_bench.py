"""The command: its help, its table and its exit code."""

from __future__ import annotations

import json
import re

import pytest
import typer
from typer.testing import CliRunner

from loadtest.bench.cli import app, finish
from loadtest.bench.client import BenchError
from loadtest.bench.memory import MIB, growth_row
from loadtest.bench.rounds import spread
from loadtest.bench.table import Result, added, at_least, at_most

runner = CliRunner()
NAMES = [
    "ttft",
    "relay",
    "search",
    "embed",
    "ingest",
    "growth",
    "fidelity",
    "knee",
    "recall",
    "quality",
    "memory",
    "startup",
    "reaction",
]


def run(result: Result | BenchError, *, as_json: bool = False) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a bench with this result."""
    fake = typer.Typer()

    @fake.command()
    def bench() -> None:
        async def measure(_: object) -> Result:
            if isinstance(result, BenchError):
                raise result
            return result

        finish("fake", measure, json=as_json)

    done = runner.invoke(fake)
    return done.exit_code, done.stdout, done.stderr


def test_help_names_every_bench() -> None:
    """And each has a help of its own."""
    text = runner.invoke(app, ["--help"]).stdout
    assert all(re.search(rf"\b{name}\b", text) for name in NAMES)
    for name in NAMES:
        done = runner.invoke(app, [name, "--help"])
        assert done.exit_code == 0
        assert "--json" in re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


def test_reaching_the_bar_is_success() -> None:
    """The table carries the machine, the commit and the command with it."""
    code, out, _ = run(Result([at_least("tokens/s", "20", "10", spread([2.0, 2.1, 1.9]), 2.0)], ["a note"]))
    assert code == 0
    assert "2.00x (1.90 to 2.10)" in out
    assert "pass" in out
    assert "commit" in out
    assert "python -m loadtest.bench" in out
    assert "a note" in out


@pytest.mark.parametrize(
    "row",
    [
        at_least("tokens/s", "19", "10", spread([1.99]), 2.0),
        at_most("p50", "14 ms", "10 ms", spread([1.31]), 1.3),
        added("first token", "26 ms", "20 ms", spread([5.1]), 5.0),
        growth_row("Api", rest=100 * MIB, warm=100 * MIB, after=109 * MIB, requests=1000),
    ],
    ids=lambda row: row.metric,
)
def test_missing_the_bar_fails(row: object) -> None:
    """A script, or a person in a hurry, sees it by the exit code."""
    shown = at_least("shown beside", "1", "1", spread([0.1]))
    code, out, _ = run(Result([shown, row]))  # type: ignore[list-item]
    assert code == 1
    assert "FAIL" in out


def test_rows_without_a_bar_only_inform() -> None:
    """However bad they are."""
    assert run(Result([at_least("shown", "1", "10", spread([0.1])), added("shown", "9", "1", spread([8.0]))]))[0] == 0
    assert growth_row("Api", rest=90 * MIB, warm=100 * MIB, after=107 * MIB, requests=1000).passed


def test_a_run_that_does_not_count_fails_and_says_why() -> None:
    """There is no table then."""
    code, out, err = run(BenchError("the client used 90% of a core"))
    assert code == 1
    assert out == ""
    assert "does not count: the client used 90% of a core" in err


def test_json_is_for_scripts() -> None:
    """The same figures, with the numbers that the bar was about."""
    code, out, _ = run(Result([at_least("tokens/s", "19", "10", spread([1.9]), 2.0)]), as_json=True)
    found = json.loads(out)
    assert (code, found["bench"], found["passed"]) == (1, "fake", False)
    assert found["rows"][0]["value"]["median"] == 1.9
    assert found["machine"]["cores"] >= 1


def test_a_command_that_cannot_run_says_so() -> None:
    """An unknown bench, or a server that is not there, is no success."""
    assert runner.invoke(app, ["nothing"]).exit_code == 2
