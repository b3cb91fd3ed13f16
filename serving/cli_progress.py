"""Progress of a start, a line a part: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status


class Steps:
    """Lines on stderr, so that stdout stays what a command is for."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._began = self._started = time.monotonic()
        self._status: Status | None = None

    @contextmanager
    def step(self, part: str) -> Iterator[None]:
        """`part` starts in the block; a failure gets no line, whoever catches it says more."""
        self.doing(part)
        try:
            yield
        except BaseException:
            self.doing(None)
            raise
        self.done(part)

    def doing(self, part: str | None) -> None:
        """`part` is starting now; None: nothing is."""
        if self._status is not None:
            self._status.stop()
            self._status = None
        if part is not None:
            self._status = self._console.status(f"starting {part}")
            self._status.start()

    def done(self, part: str) -> None:
        """`part` is ready; its time counts from the one before it."""
        self.doing(None)
        now = time.monotonic()
        self._console.print(f"  [green]✓[/] {part:<9}[dim]{now - self._began:6.1f} s[/]")
        self._began = now

    def note(self, text: str) -> None:
        """Something worth knowing that is no part."""
        self._console.print(f"  [yellow]![/] {text}")

    def say(self, text: str) -> None:
        """A plain line."""
        self._console.print(text)

    @property
    def elapsed_s(self) -> float:
        """Since the first part could start."""
        return time.monotonic() - self._started
