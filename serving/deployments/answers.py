"""What another replica's silence means: Ray's, gRPC's and Serve's errors as errors of `serving.errors`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayError, RayTaskError

from serving.errors import AnchorageError, Unavailable


@contextmanager
def answered(part: type[Unavailable], name: str) -> Iterator[None]:
    """Wraps calls of another deployment: they succeed, or raise its own deliberate error, or `part`."""
    try:
        yield
    except AnchorageError:
        raise
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, AnchorageError) else part(f"{name} failed: {_line(cause)}") from None
    except RayError as error:
        raise part(f"{name} went away: {_line(error)}") from error
    except TimeoutError:
        raise part(f"{name} did not answer in time") from None
    except asyncio.CancelledError:
        # Either we are cancelled, or the other side was: only the first is ours to pass on.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise part(f"{name} went away") from None
    except Exception as error:
        # The process edge: gRPC and Serve have no common base for what fails here.
        raise part(f"{name} did not answer: {_line(error)}") from error


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
