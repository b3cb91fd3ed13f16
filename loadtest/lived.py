"""A request while it is under way, and the record that is left of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from loadtest.connection import Killed
from loadtest.failures import Broken, Failure
from loadtest.percentiles import rank
from loadtest.quality import judge
from loadtest.record import Record
from loadtest.reply import Reply, Streamed, Whole
from loadtest.transfer import Clock
from loadtest.workload import Ask


class Lived:
    """`with lived:` around the request; what ends it early, a Failure or a kill, is kept in the record.

    `reply`: what came, or is coming. `text`: of a whole answer. `until`: when its user gives up.
    """

    def __init__(self, ask: Ask, at_s: float, clock: Clock, timeout_s: float) -> None:
        self.ask = ask
        self.clock = clock
        self.until = clock() + timeout_s
        self.record = Record(ask.task, at_s, question=ask.question, cold_collection=ask.cold_collection)
        self.reply: Reply | None = None
        self.text = ""
        self._usage: Mapping[str, Any] = {}
        self._rag: Mapping[str, Any] = {}
        self._annotations: Sequence[Any] = ()
        self._killed: BaseException | None = None

    def begin(self, reply: Reply) -> None:
        """The request is made, and goes out now: what is late until here is the client's fault, what comes is not."""
        self.record.dispatch_s = self.clock() - self.record.at_s
        self.reply = reply

    def read(self, reply: Streamed | Whole) -> None:
        """Of an answer that is there. Raises Failure for one that is none."""
        if isinstance(reply, Whole):
            self._read_whole(reply.data)
        else:
            self.text = "".join(reply.texts)
        if not self.text:
            raise Failure("empty", "the answer has no text")

    def found(self, reply: Whole) -> None:
        """Of a search. Raises Failure."""
        passages = reply.data.get("data")
        if not isinstance(passages, list):
            raise Broken("no list of passages in the reply")
        self._rag = {"passages": passages, "timings_ms": reply.data.get("timings_ms")}

    def records(self) -> Iterator[Record]:
        """The one record; then a kill goes on."""
        yield self.record
        if self._killed is not None:
            raise self._killed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        record, reply = self.record, self.reply
        ended = reply.ended if reply is not None and reply.ended is not None else self.clock()
        record.total_s = ended - record.at_s
        if isinstance(error, Failure):
            record.error, record.message = error.kind, str(error)
        elif isinstance(error, Killed):
            record.error, record.message = "unfinished", "it was ended from outside"
            self._killed = error
        elif error is not None:
            return False
        if reply is not None:
            record.status, record.retry_after_s = reply.status, reply.retry_after_s
        if isinstance(reply, Streamed):
            self._keep_stream(reply)
        self._keep_what_is_said()
        if record.error is None:
            self._keep_quality()
        return True

    def _read_whole(self, data: Mapping[str, Any]) -> None:
        choices = data.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(message, dict):
            raise Broken("no message in the reply")
        content, annotations = message.get("content"), message.get("annotations")
        self.text = content if isinstance(content, str) else ""
        self.record.pieces = 1 if self.text else 0
        self.record.truncated = choice.get("finish_reason") == "length"
        self._annotations = annotations if isinstance(annotations, list) else ()
        self._usage, self._rag = mapping(data.get("usage")), mapping(data.get("rag"))

    def _keep_stream(self, reply: Streamed) -> None:
        record = self.record
        if reply.first is not None:
            record.ttft_s = reply.first - record.at_s
        record.gaps_s = reply.gaps_s
        record.pieces = len(reply.texts)
        record.truncated = reply.finish_reason == "length"
        if reply.gaps_s:
            ordered = sorted(reply.gaps_s)
            record.longest_gap_s = ordered[-1]
            record.gap_p99_s = ordered[rank(99, len(ordered)) - 1]
        self._annotations, self._usage, self._rag = reply.annotations, reply.usage, reply.rag

    def _keep_what_is_said(self) -> None:
        record, rag = self.record, self._rag
        record.tokens_in = _count(self._usage.get("prompt_tokens"))
        record.tokens_out = _count(self._usage.get("completion_tokens"))
        outcome = rag.get("outcome")
        record.outcome = outcome if isinstance(outcome, str) else None
        record.cold = rag.get("cold") is True
        record.resumed = _count(rag.get("resumed")) or 0
        timings = mapping(rag.get("timings_ms"))
        record.stages_s = {
            stage: value / 1000 for stage, value in timings.items() if isinstance(value, int | float) and value >= 0
        }

    def _keep_quality(self) -> None:
        passages = self._rag.get("passages")
        quality = judge(self.ask, self.text, self._annotations, passages if isinstance(passages, list) else None)
        record = self.record
        record.source_recall, record.answer_match = quality.source_recall, quality.answer_match
        record.citations, record.citations_valid = quality.citations, quality.citations_valid


def mapping(value: Any) -> Mapping[str, Any]:
    """An empty one for what is none: who measures takes a server as it is."""
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
