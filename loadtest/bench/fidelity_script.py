"""What the scripted server does, and when: known before anything is measured."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from random import Random
from typing import Self

MODEL = "scripted"
QUESTION = "How does the Pod lifecycle work?"
#: Times of tokens never are shorter or longer than these shares of their median, stalls aside.
_SHORTEST, _LONGEST = 0.4, 2.5


@dataclass(frozen=True, slots=True)
class Script:
    """Log-normal times to the first token and gaps, with stalls on top of some of them. Seconds.

    `flood`: whole answers as fast as the client takes them. `freeze_s`: so long after
    the first request the server neither reads nor writes, for so long.
    """

    seed: int = 0
    tokens: int = 32
    first_s: float = 0.150
    gap_s: float = 0.020
    sigma: float = 0.25
    stall_s: float = 0.5
    #: Shares of the first tokens and of the gaps that a stall lengthens: p99 is amid the stalls.
    first_stalls: float = 0.04
    gap_stalls: float = 0.02
    flood: bool = False
    freeze_s: tuple[float, float] | None = None

    @classmethod
    def read(cls, text: str) -> Self:
        """Of `text()`."""
        found = json.loads(text)
        freeze = found.pop("freeze_s")
        return cls(**found, freeze_s=None if freeze is None else (freeze[0], freeze[1]))

    def text(self) -> str:
        return json.dumps(asdict(self))

    def due_s(self, number: int, tokens: int) -> list[float]:
        """When the tokens of the request of this number are written, from when its bytes were there; ascending."""
        if self.flood:
            return [0.0] * tokens
        draw = Random(f"{self.seed}/{number}")
        at = self._time(draw, self.first_s, self.first_stalls)
        due = [at]
        for _ in range(tokens - 1):
            at += self._time(draw, self.gap_s, self.gap_stalls)
            due.append(at)
        return due

    def answer_s(self) -> float:
        """How long an answer takes on average."""
        spread = math.exp(self.sigma**2 / 2)
        first = self.first_s * spread + self.first_stalls * self.stall_s
        return first + (self.tokens - 1) * (self.gap_s * spread + self.gap_stalls * self.stall_s)

    def _time(self, draw: Random, median_s: float, stalls: float) -> float:
        share = min(_LONGEST, max(_SHORTEST, draw.lognormvariate(0.0, self.sigma)))
        return median_s * share + (self.stall_s if draw.random() < stalls else 0.0)
