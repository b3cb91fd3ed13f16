"""What is tested: where it is, what to ask of it, and how long its users wait."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from serving.errors import ConfigurationError


@dataclass(frozen=True)
class Limits:
    """How long a user waits, seconds. Each wait of a request ends by one of them.

    `connect_s`: for name, connection and TLS together. `stall_s`: while not a byte comes or goes; comments of a stream
    count as life. `timeout_s`: for the whole request, from when it was begun.
    """

    connect_s: float = 10.0
    stall_s: float = 60.0
    timeout_s: float = 360.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigurationError(f"{name} must be more than 0 seconds, not {value:g}")


@dataclass(frozen=True)
class Target:
    """An OpenAI-compatible server. Raises ConfigurationError for a `url` or key that cannot be used.

    `url`: of the server or of its API; a `/v1` at its end is the same as none. `plain`: somebody else's server, which
    gets nothing that OpenAI's API does not know. `model`: empty until somebody chose one. `on_cold`: `rag.on_cold`.
    `ignore_eos`: vLLM's parameter; answers go on until they have all tokens that they may have.
    """

    url: str
    model: str = ""
    api_key: str = field(default="", repr=False)
    plain: bool = False
    on_cold: str | None = None
    limits: Limits = field(default_factory=Limits)
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"{self.url!r} is no URL of a server, such as http://localhost:8000")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigurationError("The URL of the server must have no user, password, query or fragment")
        if not self.url.isascii() or any(letter.isspace() for letter in self.url):
            raise ConfigurationError(f"{self.url!r} has letters that no URL has")
        if not self.api_key.isascii() or any(not letter.isprintable() for letter in self.api_key):
            raise ConfigurationError("The API key has letters that no HTTP header can carry")
        try:
            self.port  # noqa: B018 - it is read out of the URL, and may be none
        except ValueError as error:
            raise ConfigurationError(f"{self.url!r} has no valid port") from error

    @property
    def scheme(self) -> Literal["http", "https"]:
        return "https" if urlsplit(self.url).scheme == "https" else "http"

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or (443 if self.scheme == "https" else 80)

    @property
    def authority(self) -> str:
        """As the `Host` header has it."""
        return urlsplit(self.url).netloc

    @property
    def prefix(self) -> str:
        """What comes before `/v1` in every path."""
        return urlsplit(self.url).path.rstrip("/").removesuffix("/v1")

    @property
    def root(self) -> str:
        """What stands before `/v1`, `/readyz` and `/metrics`."""
        return f"{self.scheme}://{self.authority}{self.prefix}"
