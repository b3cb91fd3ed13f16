"""Every error Anchorage raises on purpose.

Only `serving/api/problems.py` knows which HTTP status each one has; only the command lines know which exit code.

    AnchorageError
    ├── CallerError                 the request cannot be served as asked, and the caller can change it
    │   ├── InvalidRequest          a field has a wrong type or value
    │   │   ├── InvalidFilter       the metadata filter cannot be understood
    │   │   └── PromptTooLong       the messages alone exceed the model's context
    │   ├── BodyTooLarge            more bytes than the server accepts
    │   ├── NotFound
    │   │   ├── UnknownModel
    │   │   └── UnknownCollection
    │   ├── Unauthenticated         no key, or one that is not known
    │   └── SourceError             an ingestion source that cannot be used at all
    ├── DocumentError               one document cannot be ingested; the others can
    │   └── DocumentGone            its source says that it no longer exists
    ├── Overloaded                  the queue is full: come back after `retry_after_s`
    ├── Unavailable                 a part is down; `part` names it
    │   ├── IndexUnavailable        Milvus
    │   ├── CatalogUnavailable      the SQL catalog
    │   ├── SourceUnavailable       a store or site that documents come from, for now
    │   ├── EmbedderUnavailable
    │   ├── WorkersUnavailable      the Ray cluster that an ingestion works on
    │   ├── ClusterUnavailable      the Kubernetes API server
    │   ├── EngineCold              the LLM has no ready replica yet
    │   └── EngineUnavailable       the LLM had one, and it failed
    ├── VerificationFailed          what was written is not what the store answers from; nothing was published
    ├── DeadlineExceeded            the request's own time limit ran out; `part` names the stage it was in
    └── ConfigurationError          settings that cannot work together, or a stored index of another make
        ├── ClusterRefused          the Kubernetes API server does not allow it, or does not know what is asked for
        │   └── FieldConflict       somebody else set these fields of an object
        ├── WriterBusy              another run holds the lease that this one needs
        └── LeaseLost               another run has taken this one's lease over, or published beyond it
"""

from __future__ import annotations


class AnchorageError(Exception):
    """Base of every deliberate error. `str(error)` is fit for a user: what was wrong, where, what to do."""


class CallerError(AnchorageError):
    """The caller can fix it.

    `param` names the offending field in dotted form (`messages[0].content`, `rag.top_k`), or is None.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidRequest(CallerError):
    """A field has a wrong type or value."""


class InvalidFilter(InvalidRequest):
    """The metadata filter cannot be understood."""

    def __init__(self, message: str, *, param: str | None = "filter") -> None:
        super().__init__(message, param=param)


class PromptTooLong(InvalidRequest):
    """The messages alone, before any passage, exceed the model's context window."""


class BodyTooLarge(CallerError):
    """The request body has more bytes than the server accepts."""


class NotFound(CallerError):
    """The named thing does not exist."""


class UnknownModel(NotFound):
    """No such model; the message lists those there are."""


class UnknownCollection(NotFound):
    """No such collection; the message lists those there are."""


class Unauthenticated(CallerError):
    """No API key, or one that is not known."""


class SourceError(CallerError):
    """An ingestion source that cannot be used at all (missing path, pattern that matches nothing)."""


class DocumentError(AnchorageError):
    """One document cannot be ingested; the others can. The message is the reason kept in the catalog."""


class DocumentGone(DocumentError):
    """The document's source says that it no longer exists (a removed file, 404, 410)."""


class Overloaded(AnchorageError):
    """The admission queue is full."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(AnchorageError):
    """A part that this request needs is down. `part` is its name as `/readyz` and `anchorage status` show it."""

    part = "unknown"

    def __init__(self, message: str, *, retry_after_s: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class IndexUnavailable(Unavailable):
    """Milvus does not answer."""

    part = "milvus"


class CatalogUnavailable(Unavailable):
    """The SQL catalog does not answer."""

    part = "catalog"


class SourceUnavailable(Unavailable):
    """A store or site that documents come from does not answer; the same read may succeed later."""

    part = "source"


class EmbedderUnavailable(Unavailable):
    """The embedding model does not answer."""

    part = "embedder"


class WorkersUnavailable(Unavailable):
    """The Ray cluster of a distributed ingestion is not there, or has failed."""

    part = "workers"


class ClusterUnavailable(Unavailable):
    """The Kubernetes API server does not answer, or not in time."""

    part = "kubernetes"


class EngineCold(Unavailable):
    """The LLM has no ready replica yet; the wake-up has begun."""

    part = "llm"


class EngineUnavailable(Unavailable):
    """The LLM was there and failed; Serve is replacing it."""

    part = "llm"


class DeadlineExceeded(AnchorageError):
    """The request's own time limit ran out in `part`."""

    def __init__(self, message: str, *, part: str) -> None:
        super().__init__(message)
        self.part = part


class VerificationFailed(AnchorageError):
    """What a run wrote is not what the store answers from. Readers keep the generation they have."""


class ConfigurationError(AnchorageError):
    """Settings that cannot work together, or a stored index of another make."""


class ClusterRefused(ConfigurationError):
    """The Kubernetes API server says no. `status` is its HTTP status, `reason` its own word for why."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class FieldConflict(ClusterRefused):
    """Somebody else set these fields: `managers` has their names, each with its fields."""

    def __init__(self, message: str, *, managers: dict[str, list[str]]) -> None:
        super().__init__(message, status=409, reason="Conflict")
        self.managers = managers


class WriterBusy(ConfigurationError):
    """Another run holds the lease that this one needs."""


class LeaseLost(ConfigurationError):
    """Another run has taken this one's lease over, or published beyond it: this one must stop."""
