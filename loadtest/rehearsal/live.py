"""What happens, as it happens: a line for each change, and on a terminal one that moves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

from loadtest.rehearsal.timeline import (
    NODES_UP,
    NODES_WANTED,
    REPLICAS_READY,
    REPLICAS_WANTED,
    TROUBLE,
    Event,
    Timeline,
)
from loadtest.rehearsal.traffic import Traffic

_NAMES = {
    REPLICAS_WANTED: "replicas wanted",
    REPLICAS_READY: "replicas serving",
    NODES_WANTED: "GPU nodes asked for",
    NODES_UP: "GPU nodes up",
}


class Live:
    """On stderr, so that stdout stays what a script reads."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._zero = time.monotonic()
        self._status: Status | None = None

    def begins(self, at: float) -> None:
        """The clock of what follows starts here (`time.monotonic`)."""
        self._zero = at

    def say(self, text: str) -> None:
        self._console.print(f"  {time.monotonic() - self._zero:7.1f} s  {text}")

    def event(self, event: Event) -> None:
        """A listener for `Timeline`."""
        if event.kind in _NAMES:
            text = f"{_NAMES[event.kind]}: [bold]{event.value}[/]"
        elif event.kind in TROUBLE:
            text = f"[yellow]{event.kind.replace('_', ' ')}[/] {event.value}"
        else:
            return
        self._console.print(f"  {event.at - self._zero:7.1f} s  {text}")

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """A phase."""
        self.say(f"[bold]{text}[/]")
        with self._console.status(text) as self._status:
            yield
        self._status = None

    def update(self, timeline: Timeline, traffic: Traffic) -> None:
        if self._status is not None:
            levels = timeline.levels
            self._status.update(
                f"{traffic.done} answered, {traffic.open} under way │ replicas {levels[REPLICAS_READY]}"
                f"/{levels[REPLICAS_WANTED]} │ GPU nodes {levels[NODES_UP]}/{levels[NODES_WANTED]}"
            )
