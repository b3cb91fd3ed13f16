"""What a look at a cluster before deploying has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """`error`: the deployment could not work; `warning`: it may have to wait for something. `do`: what helps."""

    level: Literal["error", "warning"]
    what: str
    do: str = ""


def error(what: str, do: str = "") -> Finding:
    return Finding("error", what, do)


def warning(what: str, do: str = "") -> Finding:
    return Finding("warning", what, do)
