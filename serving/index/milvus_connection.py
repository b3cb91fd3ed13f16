"""A connection to Milvus: when it is made, how long a call may take, what its errors mean, and who may write when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
from pymilvus import AsyncMilvusClient, MilvusException

from serving.errors import ConfigurationError, IndexUnavailable
from serving.index.write_lock import write_lock
from serving.settings import IndexSettings

_T = TypeVar("_T")

#: Building a connection is a few round trips: a server that needs longer is away.
_CONNECT_S = 3.0
#: Time limit of what writes, or reads whole segments (create, load, flush, count): nobody waits for these on-line.
LONG_S = 120.0

# Error codes of Milvus (`merr`), which Milvus Lite shares.
_NOT_CONNECTED = 2
_UNKNOWN_INDEX = 100
_NOT_LOADED = 101

#: How often an index is loaded for one call: one more than it can be unloaded meanwhile (dense, sparse).
_LOADS = 3

#: pymilvus repeats a failed call up to 75 times; once, over a fresh connection, is what we want before saying so.
ONCE = {"retry_times": 1}
#: Channels of one process share their connections, and with them the waiting time after a failed attempt, unless told
#: not to. A server that comes back must be seen at once.
_CHANNEL = {
    "grpc.use_local_subchannel_pool": 1,
    "grpc.max_reconnect_backoff_ms": 1_000,
    # gRPC servers close connections that ping more often than every 5 minutes; pymilvus would, every 10 s.
    "grpc.keepalive_time_ms": 330_000,
}


class Connection:
    """Calls to one Milvus. Nothing is connected before the first one.

    The gRPC channel belongs to the event loop that made it, so a call from another loop makes another client.
    """

    def __init__(self, settings: IndexSettings) -> None:
        # pymilvus logs each failed call with its traceback although it raises the error as well.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self._settings = settings
        self._client: AsyncMilvusClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    @property
    def arguments(self) -> dict[str, Any]:
        """What a client of pymilvus is made with."""
        token = self._settings.milvus_token
        return {
            "uri": self._settings.milvus_uri,
            "token": token.get_secret_value() if token else "",
            "timeout": _CONNECT_S,
            "dedicated": True,
            "grpc_options": _CHANNEL,
        }

    async def read(
        self,
        operation: Callable[[AsyncMilvusClient], Awaitable[_T]],
        *,
        index: str = "",
        limit_s: float | None = None,
        refusal: type[Exception] | None = None,
    ) -> _T:
        """One call in its time limit, and again after loading an index that is not loaded.

        A restarted server has not loaded it; the embedded one also unloads it for each of its indexes it makes.

        With `refusal`, what Milvus understood and does not do is raised as that.
        """
        limit = limit_s or self._settings.milvus_timeout_s
        async with self.errors(index, limit, refusal), asyncio.timeout(limit):
            client = await self._connected()
            for _ in range(_LOADS):
                try:
                    return await operation(client)
                except MilvusException as error:
                    if not index or error.code != _NOT_LOADED:
                        raise
                await client.load_collection(index, **ONCE)
            return await operation(client)

    async def write(
        self,
        operation: Callable[[AsyncMilvusClient], Awaitable[_T]],
        *,
        index: str,
        refusal: type[Exception] | None = None,
    ) -> _T:
        """A call that changes something: one at a time where the server could not bear two."""
        async with self.alone():
            return await self.read(operation, index=index, limit_s=LONG_S, refusal=refusal)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """The turn to write. Raises IndexUnavailable when others write without end."""
        async with write_lock(self._settings.milvus_uri):
            yield

    @asynccontextmanager
    async def errors(self, index: str, limit: float, refusal: type[Exception] | None = None) -> AsyncIterator[None]:
        """Every error of pymilvus and gRPC as one of ours, without the token."""
        milvus = f"Milvus at {_without_secrets(self._settings.milvus_uri)}"
        try:
            yield
        except TimeoutError as error:
            raise IndexUnavailable(f"{milvus} did not answer within {limit:g} s.") from error
        except grpc.RpcError as error:
            raise IndexUnavailable(f"{milvus} does not answer ({error.code().name}).") from error
        except MilvusException as error:
            if isinstance(error.code, grpc.StatusCode) or error.code == _NOT_CONNECTED:
                raise IndexUnavailable(f"{milvus} does not answer.") from error
            if index and error.code == _UNKNOWN_INDEX:
                raise ConfigurationError(f"{milvus} has no index {index!r}. Ingest the documents again.") from error
            if refusal is not None:
                raise refusal from error
            raise IndexUnavailable(f"{milvus} refused the call: {str(error.message)[:300]}") from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not this task but its call was cancelled: another one found the connection broken and replaced it.
            raise IndexUnavailable(f"{milvus} closed the connection.") from error

    async def _connected(self) -> AsyncMilvusClient:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._client, self._loop, self._connecting = None, loop, asyncio.Lock()
        # Without the lock each of the first calls would make a connection, and all but the last would be forgotten.
        async with self._connecting:
            if self._client is None:
                self._client = await AsyncMilvusClient(**self.arguments).__aenter__()
        return self._client


def _without_secrets(uri: str) -> str:
    scheme, _, rest = uri.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if scheme else rest.rpartition("@")[2]
