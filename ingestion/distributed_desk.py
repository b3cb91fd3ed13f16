"""Where workers ask and the driver answers. It keeps nothing: killed and started again, it is asked again."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import ray

from ingestion.distributed_words import Question

#: Questions that may wait for an answer.
_MAX_WAITING = 10_000


class Desk:
    """An actor on the driver's machine."""

    def __init__(self) -> None:
        self._era = secrets.token_hex(8)
        self._number = 0
        self._new: asyncio.Queue[tuple[str, Question] | None] = asyncio.Queue()
        self._open: dict[str, asyncio.Future[Any]] = {}

    async def ask(self, question: Question) -> Any:
        """By a worker: waits for the answer."""
        self._number += 1
        ticket = f"{self._era}-{self._number}"
        answer = self._open[ticket] = asyncio.get_running_loop().create_future()
        self._new.put_nowait((ticket, question))
        try:
            return await answer
        finally:
            del self._open[ticket]

    async def asked(self) -> list[tuple[str, Question]]:
        """By the driver: waits for questions; each is told once. None of them: there are no more."""
        questions = [await self._new.get()]
        while not self._new.empty():
            questions.append(self._new.get_nowait())
        return [question for question in questions if question is not None]

    async def close(self) -> None:
        """By the driver, when nobody asks any more."""
        self._new.put_nowait(None)

    async def answer(self, ticket: str, answer: Any) -> None:
        """By the driver. Whoever asked may be gone."""
        future = self._open.get(ticket)
        if future is not None and not future.done():
            future.set_result(answer)


def start_desk() -> Any:
    """On this machine, beside whatever runs there; Ray starts it again as often as it dies."""
    placed = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(driver_node(), soft=False)
    remote = ray.remote(Desk)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": _MAX_WAITING}
    return remote.options(**options, scheduling_strategy=placed).remote()


def driver_node() -> str:
    """Ray's name of the machine that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())


def ask(desk: Any, question: Question) -> Any:
    """In a worker: blocking."""
    return ray.get(desk.ask.remote(question))
