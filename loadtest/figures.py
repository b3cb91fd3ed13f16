"""From the records of a run to its numbers: the only place that makes them, for all who show or judge them.

Times are seconds from the intended start, shares lie between 0 and 1, rates are per second of the measured part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from loadtest.percentiles import Percentiles
from loadtest.record import TASKS, ErrorKind, Record, Task
from loadtest.run import Run

#: Whose answers come piece by piece; who wants an answer at all (a search and an upload have none).
STREAMING: Sequence[Task] = ("stream", "turn")
ASKING: Sequence[Task] = ("stream", "turn", "ask")
#: Errors of those who waited in vain. They are part of the waiting times, with as long as they waited: left out, the
#: worst would make a server look better. Those who were turned away at once are not: they would make it look fast.
WAITED: Sequence[ErrorKind] = ("connect_timeout", "stalled", "timeout", "unfinished")
QUALITY = ("source_recall", "answer_match", "citations_valid", "cited")
#: Of `rag.timings_ms`: what is counted from the start, not from the stage before.
_SUMS = ("first_token", "generate", "total")


class Good(Protocol):
    """Tells a good answer (`loadtest.slo.Slo`)."""

    def good(self, record: Record) -> bool: ...


@dataclass(frozen=True)
class Share:
    count: int
    of: int

    @property
    def value(self) -> float | None:
        return self.count / self.of if self.of else None


@dataclass(frozen=True)
class Mean:
    """Of `count` answers for which it is known."""

    value: float | None
    count: int


@dataclass(frozen=True)
class Failed:
    """`share` of all requests; `message`: what was said of one of them."""

    kind: ErrorKind
    count: int
    share: float
    message: str


@dataclass(frozen=True)
class TaskFigures:
    requests: int
    errors: int
    ttft: Percentiles
    total: Percentiles


@dataclass(frozen=True)
class Figures:
    """Of the measured part of a run.

    `offered_rate`: requests that were meant to start; `answered_rate`: answers that ended, whenever they began (what
    the server got done); tokens likewise, those of an answer spread from its first text to its end. `ttft`, `gap`: of
    what streams; `total`: of questions, or of all where none was asked; `dispatch`: how late the client was.
    `shares`: truncated, cold, cold_collection, extractive, no_context, resumed, of the answered. `quality`: means, by
    the names of `QUALITY`; `cited`: has a citation. `stages`: as the server times them; `split`: of the TTFT, in order
    (see `split`). `goodput`: good answers a second, by their start; None without an SLO.
    """

    measured_s: float
    requests: int
    answered: int
    meant_rate: float | None
    offered_rate: float
    answered_rate: float
    tokens_in_rate: float
    tokens_out_rate: float
    ttft: Percentiles
    gap: Percentiles
    total: Percentiles
    dispatch: Percentiles
    errors: Sequence[Failed]
    errors_share: float | None
    shares: Mapping[str, Share]
    quality: Mapping[str, Mean]
    stages: Mapping[str, Percentiles]
    split: Mapping[str, Percentiles]
    tasks: Mapping[Task, TaskFigures]
    goodput: float | None
    good_share: float | None
    in_flight_mean: float
    in_flight_most: int
    client_cpu: float | None
    void: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Plain values, without the histograms."""
        plain: dict[str, Any] = _plain(self)
        return plain


def figures(run: Run, slo: Good | None = None) -> Figures:
    records = run.measured()
    answered = [one for one in records if one.ok]
    measured_s = run.duration_s - run.warmup_s
    good = sum(map(slo.good, records)) if slo else None
    asked = [one for one in records if one.task in ASKING] or records
    tokens = _tokens(run)
    return Figures(
        measured_s=measured_s,
        requests=len(records),
        answered=len(answered),
        meant_rate=run.rate,
        offered_rate=_per(len(records), measured_s),
        answered_rate=_per(sum(1 for one in run.records if one.ok and _ends_within(one, run)), measured_s),
        tokens_in_rate=_per(tokens[0], measured_s),
        tokens_out_rate=_per(tokens[1], measured_s),
        ttft=_waits(records, first_text_s),
        gap=Percentiles.of(run.measured_gaps()),
        total=_waits(asked, end_s),
        dispatch=Percentiles.of(one.dispatch_s for one in records),
        errors=failed(records),
        errors_share=1 - len(answered) / len(records) if records else None,
        shares=_shares(answered),
        quality={name: _mean(quality(one, name) for one in answered) for name in QUALITY},
        stages=_by_stage(one.stages_s for one in answered),
        split=_by_stage(filter(None, map(split, answered))),
        tasks={task: _task(those) for task in TASKS if (those := [one for one in records if one.task == task])},
        goodput=None if good is None else _per(good, measured_s),
        good_share=None if good is None or not records else good / len(records),
        in_flight_mean=_per(sum(overlap_s(run, one.at_s, one.ended_s) for one in run.records), measured_s),
        in_flight_most=_most_in_flight(run),
        client_cpu=max((client.cpu_share for client in run.clients), default=None),
        void=tuple(run.void),
    )


def first_text_s(record: Record) -> float | None:
    """TTFT; of one who waited for it in vain, how long. None: nothing streams, or it failed at once."""
    if record.task not in STREAMING or record.ttft_s is not None:
        return record.ttft_s
    return record.total_s if record.error in WAITED else None


def end_s(record: Record) -> float | None:
    """Until the whole answer; of one who waited for it in vain, how long. None: it failed otherwise."""
    return record.total_s if record.ok or record.error in WAITED else None


def without_llm(found: Figures) -> str:
    """A sentence, where no LLM wrote some of the answers: their times say nothing about one."""
    extractive = found.shares["extractive"]
    if not extractive.count:
        return ""
    return f"{extractive.count:,} of {extractive.of:,} answers were extractive: no LLM wrote them."


def quality(record: Record, name: str) -> float | None:
    if name == "cited":
        # What has no passages can cite none.
        return None if record.citations is None or record.outcome == "no_context" else float(record.citations > 0)
    value = getattr(record, name)
    return None if value is None else float(value)


def split(record: Record) -> dict[str, float]:
    """Where the TTFT went, seconds; empty where the server does not say. They add up to the TTFT.

    `client`: until the request was sent. `edge`: network, and what the server did before and after its pipeline
    (its own queue is there). Then the stages of the pipeline that lie before the engine (`serving.journey`: embed,
    search, rerank, prompt). `engine`: what remains until its first token: a cold start, its queue, the prefill.
    """
    first = record.stages_s.get("first_token")
    if record.ttft_s is None or first is None:
        return {}
    stages = {name: value for name, value in record.stages_s.items() if name not in _SUMS}
    edge_s = max(0.0, record.ttft_s - record.dispatch_s - first)
    return {
        "client": record.dispatch_s,
        "edge": edge_s,
        **stages,
        "engine": max(0.0, record.ttft_s - record.dispatch_s - edge_s - sum(stages.values())),
    }


def overlap_s(run: Run, since_s: float, until_s: float) -> float:
    """How much of it lies in the measured part."""
    return max(0.0, min(until_s, run.duration_s) - max(since_s, run.warmup_s))


def _ends_within(record: Record, run: Run) -> bool:
    return run.warmup_s <= record.ended_s < run.duration_s


def _per(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _tokens(run: Run) -> tuple[float, float]:
    """In and out, of the measured part."""
    taken = sum(one.tokens_in or 0 for one in run.records if _ends_within(one, run))
    given = 0.0
    for one in run.records:
        if one.tokens_out:
            since_s, until_s = one.answering_s, one.ended_s
            whole_s = max(until_s - since_s, 1e-6)
            given += one.tokens_out * overlap_s(run, since_s, since_s + whole_s) / whole_s
    return taken, given


def _waits(records: Iterable[Record], of: Any) -> Percentiles:
    values = [(value, one) for one in records if (value := of(one)) is not None]
    in_vain = sum(1 for _, one in values if not one.ok and (of is end_s or one.ttft_s is None))
    return Percentiles.of((value for value, _ in values), at_least=in_vain)


def failed(records: Sequence[Record]) -> list[Failed]:
    """The most frequent first; the message that was said most often of each."""
    errors = [one for one in records if one.error is not None]
    counts = Counter(str(one.error) for one in errors)
    said = {kind: Counter(one.message for one in errors if one.error == kind) for kind in counts}
    return [
        Failed(kind, count, count / len(records), said[kind].most_common(1)[0][0])
        for kind, count in counts.most_common()
    ]


def _shares(answered: Sequence[Record]) -> dict[str, Share]:
    asked = [one for one in answered if one.task in ASKING]
    has = {
        "truncated": sum(one.truncated for one in asked),
        "cold": sum(one.cold for one in asked),
        "cold_collection": sum(one.cold_collection for one in asked),
        "extractive": sum(one.outcome == "extractive" for one in asked),
        "no_context": sum(one.outcome == "no_context" for one in asked),
        "resumed": sum(one.resumed > 0 for one in asked),
    }
    return {name: Share(count, len(asked)) for name, count in has.items()}


def _mean(values: Iterable[float | None]) -> Mean:
    known = [value for value in values if value is not None]
    return Mean(sum(known) / len(known) if known else None, len(known))


def _by_stage(of: Iterable[Mapping[str, float]]) -> dict[str, Percentiles]:
    by_stage: dict[str, list[float]] = {}
    for stages in of:
        for name, value in stages.items():
            by_stage.setdefault(name, []).append(value)
    # The engine comes last: a stage that only some requests have would come after it.
    return {name: Percentiles.of(by_stage[name]) for name in sorted(by_stage, key=("engine", *_SUMS).__contains__)}


def _task(records: Sequence[Record]) -> TaskFigures:
    errors = sum(not one.ok for one in records)
    return TaskFigures(len(records), errors, _waits(records, first_text_s), _waits(records, end_s))


def _most_in_flight(run: Run) -> int:
    """At one moment of the measured part."""
    changes = sorted(_changes(run))
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _changes(run: Run) -> Iterator[tuple[float, int]]:
    for one in run.records:
        if overlap_s(run, one.at_s, one.ended_s) > 0:
            yield max(one.at_s, run.warmup_s), 1
            yield one.ended_s, -1


def _plain(value: Any) -> Any:
    if isinstance(value, Share):
        return {"count": value.count, "of": value.of, "value": value.value}
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(each) for name, each in vars(value).items() if name != "times"}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
