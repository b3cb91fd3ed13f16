"""What the GPUs of a load test cost.

    GPU minutes         = ∫ GPUs of the nodes that are up dt / 60, over the time that was watched
    cost of 1,000       = GPU minutes / 60 × price of a GPU-hour × 1,000 / answers

A sample holds until the next one. What was watched before and after the load is part of it: a node costs while it
starts, and until it goes. Answers are all that ended well, those of the warm-up too: their GPUs are paid for as well.
CPU nodes, storage and traffic are not in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from loadtest.run import Run, Study
from serving.errors import ConfigurationError
from serving.planning.gpus import Gpu, catalogue, pick

CURRENCY = "USD"


def cost(study: Study, gpu: str = "", gpu_price: float | None = None) -> dict[str, Any] | None:
    """`Study.cost`; None where nobody looked at nodes. `gpu`: a type that `anchorage plan` knows, or one with a price.

    `gpu_price`: USD for an hour of one GPU, instead of the catalogue's. Raises ConfigurationError for a type without a
    price, and for a price that is none.
    """
    price = check(gpu, gpu_price)
    known = [*_known(study.runs)]
    if not known:
        return None
    minutes = _minutes(known)
    answers = sum(record.ok for run in study.runs for record in run.records)
    found: dict[str, Any] = {"currency": CURRENCY, "gpu": None, "gpu_hour": None, "gpu_minutes": round(minutes, 3)}
    found |= {"answers": answers, "per_1000_answers": None}
    if not any(gpus for _, gpus in known):
        return {**found, "note": "no GPU: no node of the deployment had one while it was watched"}
    found["gpu"] = price.name if price else gpu or None
    hour = gpu_price if gpu_price is not None else price.usd_hour if price else None
    if hour is None:
        return {**found, "note": f"no price: the nodes do not say which GPUs they have. {_SAY}"}
    found["gpu_hour"] = hour
    if answers:
        found["per_1000_answers"] = round(minutes / 60 * hour * 1000 / answers, 6)
    source = (
        "the price is as given" if gpu_price is not None or price is None else f"{price.price_source}; an assumption"
    )
    return {**found, "note": f"{source}. GPUs of nodes that were up, used or not, {_span(study.runs, known)}"}


_SAY = "Name the type with --gpu, or the price of an hour with --gpu-price."


def check(gpu: str, gpu_price: float | None) -> Gpu | None:
    """To be asked before a load is held in vain. The type, where the catalogue has it. Raises as `cost`."""
    if gpu_price is not None and not gpu_price > 0:
        raise ConfigurationError(f"--gpu-price {gpu_price:g}: a price is above 0")
    if not gpu:
        return None
    try:
        return pick(catalogue(), gpu)
    except ConfigurationError:
        if gpu_price is None:
            raise
        return None


def _known(runs: Sequence[Run]) -> Iterator[tuple[float, int]]:
    """(time, GPUs) by one clock, ascending: samples of several runs may overlap where they were watched together."""
    found: dict[float, int] = {}
    for run in runs:
        found |= {run.began + one.t_s: one.gpus for one in run.samples if one.gpus is not None}
    yield from sorted(found.items())


def _minutes(known: Sequence[tuple[float, int]]) -> float:
    return sum(gpus * (later - at) for (at, gpus), (later, _) in itertools.pairwise(known)) / 60


def _span(runs: Sequence[Run], known: Sequence[tuple[float, int]]) -> str:
    """From when to when, seen from the load."""
    first, last = min(run.began for run in runs), max(run.began + run.duration_s for run in runs)
    before, after = max(0.0, first - known[0][0]), max(0.0, known[-1][0] - last)
    return f"from {before:.0f} s before the load until {after:.0f} s after it"
