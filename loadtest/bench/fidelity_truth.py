"""What the scripted server wrote, and when: read from its log, after the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from loadtest.bench.client import BenchError
from loadtest.percentiles import ranked


@dataclass(frozen=True, slots=True)
class Four:
    """What is compared. Seconds; None: not said."""

    first_p50: float | None
    first_p99: float | None
    gap_p50: float | None
    gap_p99: float | None

    def errors(self, truth: Four) -> dict[str, float]:
        """By name, as a share of the truth, with its sign; what is not said is missing."""
        pairs = {name: (getattr(self, name), getattr(truth, name)) for name in self.__slots__}
        return {name: said / true - 1 for name, (said, true) in pairs.items() if said is not None and true}


@dataclass(frozen=True, slots=True)
class Truth:
    """Of all answers of a run. Seconds."""

    firsts: list[float]
    gaps: list[float]
    #: How late each token was, by the script.
    late: list[float]
    #: When the requests' bytes were there, on CLOCK_MONOTONIC; ascending.
    accepted: list[float]

    @property
    def tokens(self) -> int:
        return len(self.late)

    def tokens_per_s(self) -> float:
        """From the first request's start to the last one's."""
        lasted = self.accepted[-1] - self.accepted[0]
        return self.tokens / lasted if lasted else 0.0

    def four(self) -> Four:
        return Four(ranked(self.firsts, 50), ranked(self.firsts, 99), ranked(self.gaps, 50), ranked(self.gaps, 99))

    def late_p99(self) -> float:
        return ranked(self.late, 99) or 0.0


def read(log: Path) -> Truth:
    """Raises BenchError when it holds no answer, or one that its client left before the end."""
    answers = list(_answers(log))
    if not answers:
        raise BenchError("the client asked nothing")
    if broken := sum(not answer["whole"] for answer in answers):
        raise BenchError(f"the client left {broken} of {len(answers)} answers before their end")
    return Truth(
        firsts=[(answer["written"][0] - answer["accepted"]) / 1e9 for answer in answers],
        gaps=[(after - before) / 1e9 for answer in answers for before, after in pairwise(answer["written"])],
        late=[
            (written - due) / 1e9
            for answer in answers
            for written, due in zip(answer["written"], answer["due"], strict=True)
        ],
        accepted=sorted(answer["accepted"] / 1e9 for answer in answers),
    )


def _answers(log: Path) -> Iterator[dict[str, Any]]:
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
