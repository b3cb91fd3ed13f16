"""How it was measured: all that is needed to believe the figures, and to make them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from loadtest.client_limit import CPU_LIMIT, LATE_FLOOR_S, LATE_SHARE
from loadtest.report.parts import Section
from loadtest.report.words import UNKNOWN, number, seconds, share
from loadtest.run import Study

WORDS = (
    (
        "Intended start",
        "Every time on this page counts from the moment the request was meant to start: in an open loop, when the "
        "schedule says; in a closed loop, when the user wanted to ask. A request that had to wait for the client, or "
        "behind others, has waited for its user, too.",
    ),
    (
        "SLO",
        "Service level objective: what is asked of the server, here as bounds on times, errors and quality. A load "
        "keeps the SLO if every bound is kept, and the line of waiting requests does not grow.",
    ),
    ("TTFT", "Time to first token: from the intended start to the first text of an answer that streams."),
    (
        "Gap",
        "From one piece of text of an answer to the next. Every gap of every answer is counted; none is averaged away.",
    ),
    ("Total", "From the intended start to the end of the answer, or to the moment it failed."),
    (
        "Goodput",
        "Good answers a second. An answer is good if it came without an error, and if its own TTFT, its own worst gaps "
        "and its own total are within the SLO's bounds for them.",
    ),
    (
        "Percentile",
        "p95 of 2 s: 95 of 100 took 2 s or less. Percentiles are those of all requests of a level in one histogram "
        "(HDR, three digits), never averages of percentiles.",
    ),
    (
        "Void",
        f"The client was the limit: its process was busy for more than {share(CPU_LIMIT)} of a core, or it sent its "
        f"requests too late (p99 of the dispatch delay above {seconds(LATE_FLOOR_S)} and above {share(LATE_SHARE)} of "
        "the median TTFT). Such a run says nothing about the server.",
    ),
    ("Source recall", "Of a question whose source is known: the share of its sources among the passages retrieved."),
    ("Answer match", "Of a question whose answer is known: the share of answers that have it in their text."),
    ("Valid citations", "The share of an answer's citations that name a passage of it and lie within its text."),
    (
        "Not known",
        "Nobody could see it: the server does not say, or nothing of that kind was asked. It is not the same as 0.",
    ),
)


def section(study: Study) -> Section:
    facts = [
        ("Command", str(study.machine.get("command", UNKNOWN))),
        ("Commit", str(study.machine.get("commit", UNKNOWN))),
        ("Began", began_at(study) or UNKNOWN),
        *_facts("Client's machine", _machine(study.machine)),
        *_facts("Server", study.target),
        *_facts("Asked", study.settings, "not set"),
        *_facts("SLO", study.slo, "none was given"),
    ]
    return Section("How it was measured", facts=facts)


def began_at(study: Study) -> str:
    """`2026-01-31 12:00 UTC`; empty where it is not known."""
    first = min((run.started_at for run in study.runs if run.started_at), default="")
    try:
        return datetime.fromisoformat(first).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return first


def _machine(machine: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in machine.items() if name not in ("command", "commit")}
    if isinstance(memory := found.get("memory"), int | float):
        found["memory"] = f"{number(memory / 2**30)} GiB"
    return found


def _facts(of: str, values: Mapping[str, Any], nothing: str = UNKNOWN) -> Iterator[tuple[str, str]]:
    """One for each value that is there, whatever its shape; names are those of options and files."""
    if not values:
        yield of, nothing
    for name, value in values.items():
        yield f"{of}: {name}", _written(value, nothing)


def _written(value: Any, nothing: str) -> str:
    if value is None or value == "":
        return nothing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        known = [f"{name} {_written(part, nothing)}" for name, part in value.items() if part is not None]
        return ", ".join(known) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_written(part, nothing) for part in value) or "none"
    return str(value)
