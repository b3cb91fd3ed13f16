"""What is counted about one answer while it passes: its report, usage, citations, and the time of its first token."""

from __future__ import annotations

import asyncio

from serving.answer import AnswerBatch, Citation, Report
from serving.api.trace import Trace
from serving.generation import Token, Usage
from serving.telemetry import Telemetry


class Tally:
    """Made when the work on an answer begins; `close()` exactly once when it ends, however it ends."""

    def __init__(self, model: str, trace: Trace, telemetry: Telemetry) -> None:
        self.report: Report | None = None
        self.usage: Usage | None = None
        self.citations: list[Citation] = []
        self._model = model
        self._trace = trace
        self._telemetry = telemetry
        self._waiting = True
        telemetry.engine(model, running=1, waiting=1)

    def watch_for_token(self, batch: AnswerBatch) -> bool:
        """Whether the first token has been seen by now; no need to call again once it has."""
        if self._waiting and any(isinstance(event, Token) for event in batch):
            self._waiting = False
            elapsed = asyncio.get_running_loop().time() - self._trace.arrived
            self._trace.fields["first_token_ms"] = round(elapsed * 1000, 2)
            kind = self.report.engine if self.report else "unknown"
            self._telemetry.first_token(kind, elapsed)
            self._telemetry.engine(self._model, waiting=-1)
        return not self._waiting

    def close(self, *, finished: bool) -> None:
        """`finished`: the answer came to its end. Only such answers have an outcome."""
        self._telemetry.engine(self._model, running=-1, waiting=-1 if self._waiting else 0)
        if self.usage is not None:
            usage = self.usage
            self._telemetry.tokens(
                prompt=usage.prompt_tokens, completion=usage.completion_tokens, cached=usage.cached_tokens
            )
        if not finished or self.report is None:
            return
        self._trace.outcome = self.report.outcome
        self._telemetry.stages(self.report.timings_ms)
        self._telemetry.answered(self.report.outcome, self.report.engine, len(self.citations))
