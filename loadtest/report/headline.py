"""What a stranger reads first: the verdict as a sentence, and the few figures that belong to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loadtest.figures import Figures, without_llm
from loadtest.metrics import Metric
from loadtest.pooled import pooled
from loadtest.report.levels import Level
from loadtest.report.parts import Headline
from loadtest.report.words import UNKNOWN, count, listed, number, per_second, plural, seconds, share
from loadtest.run import Study
from loadtest.slo import Judged

_MOST_DIGITS = 8
#: Things that are asked for beside questions.
_OTHER = ("search", "upload")
#: Arrivals by chance that differ by more than this from the rate that was asked for are told of.
_OFF = 0.05
#: Titles of metrics that are more than one thing.
_PLURAL = ("errors", "valid citations", "answers/s", "tokens/s")


def headline(study: Study, levels: Sequence[Level], of: Level | None) -> Headline:
    if of is None or not any(level.figures.requests for level in levels):
        return Headline("unknown", "NOTHING MEASURED", "No request was meant to start in the measured part")
    if all(level.void for level in levels):
        return _void(levels)
    if not any(level.figures.answered for level in levels):
        return _unanswered(pooled([level.figures for level in levels]))
    found = study.found
    return _found(study, levels, of) if found is not None else _one(study, of)


def _void(levels: Sequence[Level]) -> Headline:
    """The reasons of the first run; of others how many there are, for they differ in little but numbers."""
    runs = [one.run for level in levels for one in level.runs]
    first, *others = runs[0].void or ["the load tester was the limit; no reason is given"]
    why, advice = first.rsplit("; ", 1) if "; " in first else (first, "")
    more = [_sentence(said) for said in (advice, *others) if said]
    if len(runs) > 1:
        more.append(f"So it was in all {len(runs)} runs.")
    return Headline("void", "VOID: this test says nothing about the server", _sentence(why).rstrip("."), more)


def _unanswered(of: Figures) -> Headline:
    failures = of.errors
    kinds = [f"{failed.count:,} {failed.kind}" for failed in failures] if failures[1:] else [failures[0].kind]
    said = f"Nothing was answered: {_all(of.requests)} failed ({listed(kinds)})"
    more = [f"What was said: {failures[0].message}"] if failures[0].message else []
    return Headline("bad", "NO ANSWERS", said, more)


def _all(many: int) -> str:
    return f"all {many:,} requests" if many > 1 else "the only request"


def _one(study: Study, of: Level) -> Headline:
    """Of one load, held once or several times."""
    at = _at(of)
    more = [*_cut(study, of), *_told(of)]
    if of.met is None:
        said = f"Answers {per_second(of.figures.answered_rate)} of {per_second(of.figures.offered_rate)} asked"
        return Headline("unknown", "NO SLO GIVEN", f"{said}, TTFT p95 {seconds(of.figures.ttft.p95)}", more)
    if of.met:
        return Headline("good", "SLO KEPT", f"Keeps the SLO {at}", more)
    first, *others = _misses(of) or ["why is not known"]
    return Headline("bad", "SLO NOT KEPT", f"Does not keep the SLO {at}: {first}", [*_also(others), *more])


def _found(study: Study, levels: Sequence[Level], of: Level) -> Headline:
    found = study.found or {}
    rate, above, sure = found.get("rate"), found.get("above"), bool(found.get("sure"))
    why = [_sentence(str(found["why"]))] if found.get("why") else []
    if rate is None and of.met:
        return Headline("unknown", "NOT YET SURE", "No rate was found yet that is sure to keep the SLO", why)
    if rate is None:
        first, *others = _misses(of) or ["its figures are too near to their bounds"]
        said = f"Does not keep the SLO, not even {_at(of)}: {first}"
        return Headline("bad", "SLO NOT KEPT", said, [*_also(others), *why])
    things = _things(of.figures)
    about = "Holds at least" if above is None else "Holds" if sure else "Holds about"
    said = f"{about} {number(rate)} {things} a second ({_hourly(rate)} an hour) within the SLO"
    word = "SLO KEPT" if sure else "NOT YET SURE"
    return Headline(
        "good" if sure else "unknown",
        word,
        said,
        [_people(rate), *_by_chance(of), *_extractive(of.figures), *_beyond(levels, above), *_against(levels), *why],
    )


def _beyond(levels: Sequence[Level], above: float | None) -> Iterator[str]:
    level = next((one for one in levels if above is not None and one.rate == above), None)
    if level is None:
        yield "Nothing faster was seen to fail."
        return
    if not (misses := _misses(level)):
        yield f"At {number(above)} a second it is not sure to: the figures are too near to their bounds."
        return
    yield f"At {number(above)} a second it does not: {misses[0]}."


def _against(levels: Sequence[Level]) -> Iterator[str]:
    """What a reader of the plots would ask."""
    slower = [level.label for level in levels if level.against and not level.met]
    if slower:
        them = "its run" if len(slower) == 1 else "their runs"
        yield f"{listed(slower)} did not keep it, though faster levels did: something else may have disturbed {them}."


def _told(of: Level) -> list[str]:
    """What belongs to the sentence, and is no miss."""
    figures = of.figures
    told = []
    if of.met and of.rate and not of.changing:
        told.append(_people(of.rate))
    told.append(f"{count(figures.answered)} of {plural(figures.requests, 'request')} were answered.")
    told += _extractive(figures)
    told += _by_chance(of)
    left_out = [one.title for _, one in of.judged if one.met is None]
    if left_out:
        told.append(f"Not judged, because nothing was asked that could tell: {listed(left_out)}.")
    if of.unsure:
        told.append(f"{of.kept} of {plural(len(of.runs), 'run')} kept the SLO alone.")
    return told


def _cut(study: Study, of: Level) -> list[str]:
    """Of a run that somebody ended."""
    asked_s, held_s = study.settings.get("duration_s"), of.runs[0].run.duration_s
    if not isinstance(asked_s, int | float) or held_s > asked_s - 1:
        return []
    return [f"It was ended after {held_s:.0f} of {asked_s:g} s."]


def _by_chance(of: Level) -> list[str]:
    came = of.figures.offered_rate
    if not of.rate or of.changing or abs(came / of.rate - 1) <= _OFF:
        return []
    return [f"By chance {number(came)} a second came, not {number(of.rate)}."]


def _extractive(of: Figures) -> list[str]:
    return [said] if (said := without_llm(of)) else []


def _people(rate: float) -> str:
    return f"That is {number(60 * rate)} people who each ask once a minute."


def _misses(of: Level) -> list[str]:
    """`TTFT p95 is 3.4 s, allowed are 2 s`."""
    found = [_miss(metric, one) for metric, one in of.judged if one.met is False]
    return [*found, of.grew] if of.grew else found


def _miss(metric: Metric, one: Judged) -> str:
    if one.value is None:
        return f"{one.title} is {UNKNOWN} ({one.why})"
    said, bound = apart(metric, one)
    verb = "are" if one.title in _PLURAL else "is"
    return f"{one.title} {verb} {said}, {'allowed are' if metric.better == 'lower' else 'wanted are at least'} {bound}"


def apart(metric: Metric, one: Judged) -> tuple[str, str]:
    """Value and bound, with as many digits as it takes to see that they differ."""
    said, bound = written(metric, one.value), written(metric, one.bound)
    for digits in range(4, _MOST_DIGITS):
        if said != bound or one.value == one.bound:
            break
        said = written(metric, one.value, digits)
    return said, bound


def written(metric: Metric, value: float | None, digits: int = 3) -> str:
    return {"s": seconds, "share": share, "1/s": per_second}[metric.unit](value, digits)


def allowed(metric: Metric, bound: float) -> str:
    """`at most 2 s`."""
    return f"{'at most' if metric.better == 'lower' else 'at least'} {written(metric, bound)}"


def _at(of: Level) -> str:
    things = _things(of.figures)
    if of.changing:
        return f"under {of.changing}, {number(of.figures.offered_rate)} {things} a second on average"
    if of.rate is not None:
        return f"at {number(of.rate)} {things} a second"
    return f"with {of.label}, who ask {number(of.figures.offered_rate)} {things} a second"


def _things(of: Figures) -> str:
    return "requests" if any(task in of.tasks for task in _OTHER) else "questions"


def _hourly(rate: float) -> str:
    return number(float(f"{3600 * rate:.3g}"))


def _also(misses: Sequence[str]) -> list[str]:
    return [f"Also: {listed(list(misses))}."] if misses else []


def _sentence(said: str) -> str:
    return said[:1].upper() + said[1:] + ("" if said.endswith((".", "!", "?")) else ".")
