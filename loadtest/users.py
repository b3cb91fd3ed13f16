"""People who ask, one thing after another: a closed loop. Each class does one task. locust.

A user wants to ask once in `--every-s`, or as soon as he has his answer if that took longer.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gevent
from locust import User, task
from locust.exception import StopUser

from loadtest.record import Task

#: Locust's own sleep is up to a millisecond late; the rest is waited for precisely.
_EARLY_S = 0.002
_LOOK_S = 0.01


class Person(User):  # type: ignore[misc] # locust is untyped
    """`environment.asking` is this process's part in the run (`loadtest.asking.Asking`) once `environment.begun`."""

    abstract = True
    does: ClassVar[Task]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._wanted_s = 0.0

    def on_start(self) -> None:
        """All users of all processes begin together; or never, if the run ends before."""
        while getattr(self.environment, "begun", None) is None:  # see `Session`: locust may be ahead of it
            gevent.sleep(_LOOK_S)
        self.environment.begun.wait()
        if self.environment.asking is None:
            raise StopUser
        self._asking = self.environment.asking
        self._wanted_s = self._asking.clock()

    def wait_time(self) -> float:
        left: float = self._wanted_s - _EARLY_S - self._asking.clock()
        return max(0.0, left)

    @task  # type: ignore[untyped-decorator]
    def ask(self) -> None:
        at_s = self._wanted_s
        ask = self._asking.next(self.does)  # before the wait, so that it makes nobody late
        self._asking.sleep_until(at_s)
        self._asking.perform(ask, at_s)
        self._wanted_s = max(at_s + self._asking.settings.every_s, self._asking.clock())


class StreamingAsker(Person):
    """Reads each answer as it comes."""

    does = "stream"


class Asker(Person):
    """Waits for whole answers."""

    does = "ask"


class Converser(Person):
    """Asks on and on in one conversation, then begins another."""

    does = "turn"


class Searcher(Person):
    """Looks for passages; no LLM has to do with it."""

    does = "search"


class Uploader(Person):
    """Sends documents."""

    does = "upload"


PEOPLE = (StreamingAsker, Asker, Converser, Searcher, Uploader)
