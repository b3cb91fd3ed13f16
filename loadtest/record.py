"""One request of a load test, as its user lived it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

#: What a user did: a question whose answer streams, one that waits for the whole answer, a turn of a conversation (it
#: streams), a search, an upload.
Task: TypeAlias = Literal["stream", "ask", "turn", "search", "upload"]

#: How it went wrong. Before anything came: `refused` (nobody listens), `unreachable` (no such host, no route),
#: `connect_timeout`, `tls`, `http_<status>` (see `http_kind`). After the request was sent: `reset` (the connection
#: broke), `cut` (it was closed before the end), `error_event` (the server said in its stream that it failed),
#: `broken_stream` (bytes that are no HTTP, no server-sent events or no JSON), `empty` (a whole answer without text),
#: `stalled` (nothing came for the time allowed), `timeout` (all in all too long), `unfinished` (still under way when
#: the run was over).
ErrorKind: TypeAlias = str
KINDS = (
    "refused",
    "unreachable",
    "connect_timeout",
    "tls",
    "http_4xx",
    "http_429",
    "http_5xx",
    "http_503",
    "reset",
    "cut",
    "error_event",
    "broken_stream",
    "empty",
    "stalled",
    "timeout",
    "unfinished",
)
TASKS: Sequence[Task] = get_args(Task)


@dataclass(slots=True)
class Record:
    """Seconds. `at_s` is the intended start, from the start of the run; every other time is from the intended start.

    Open loop: the moment that the schedule says, whether or not the client got round to it. Closed loop: the moment
    the user wanted to ask. `None`: it did not happen, or the server does not say.
    """

    task: Task
    at_s: float
    #: How late the client was: from the intended start until the request was on its way.
    dispatch_s: float = 0.0
    #: Until the first text of the answer; of what does not stream, None.
    ttft_s: float | None = None
    #: Until the end, whole or not.
    total_s: float = 0.0
    #: Between one piece of text and the next, every one of them. Not kept in a result: see `longest_gap_s`.
    gaps_s: list[float] = field(default_factory=list)
    longest_gap_s: float | None = None
    #: Of this answer's own gaps.
    gap_p99_s: float | None = None
    #: As the server counts them (`usage`).
    tokens_in: int | None = None
    tokens_out: int | None = None
    #: Pieces of text that came.
    pieces: int = 0
    error: ErrorKind | None = None
    #: What was said of it, for people; shortened.
    message: str = ""
    status: int | None = None
    retry_after_s: float | None = None
    #: The answer ended because it had all its tokens (`finish_reason` `length`).
    truncated: bool = False
    #: `rag.outcome`: answered, no_context, extractive.
    outcome: str | None = None
    #: No LLM was ready when the question came; another replica went on with the answer, so often.
    cold: bool = False
    resumed: int = 0
    #: Of the collections that nobody else asks.
    cold_collection: bool = False
    citations: int | None = None
    #: Share of the citations that name a passage of the answer and lie within its text; None without citations.
    citations_valid: float | None = None
    #: Share of the question's known sources among the passages; None where none is known or it did not retrieve.
    source_recall: float | None = None
    #: One of the question's known answers is in the text; None where none is known.
    answer_match: bool | None = None
    #: `rag.timings_ms`, in seconds by stage.
    stages_s: Mapping[str, float] = field(default_factory=dict)
    #: Number of the question in its file.
    question: int | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def ended_s(self) -> float:
        """From the start of the run, as `at_s`."""
        return self.at_s + self.total_s

    @property
    def answering_s(self) -> float:
        """From the start of the run: since when its tokens came, evenly spread until `ended_s`."""
        return self.at_s + (self.ttft_s or self.dispatch_s)


def http_kind(status: int) -> ErrorKind:
    """429 and 503 have kinds of their own: they say "later", the others say "never" or "broken"."""
    if status in (429, 503):
        return f"http_{status}"
    return "http_4xx" if status < 500 else "http_5xx"
