"""The embedded Milvus Lite server of a data directory: found, shared, stopped, recovered."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ingestion.parts import open_parts
from ingestion.patience import Patience
from serving.errors import ConfigurationError, IndexUnavailable
from serving.ports import free_port
from serving.running import ProcessId, announce, running_server, sole_server
from serving.settings import IndexSettings, Settings
from serving.stack import embedded_index, running_milvus, speaks_http2

from .waiting import until

HOLD = """
import asyncio, sys
from pathlib import Path
from serving.settings import Settings
from serving.stack import embedded_index

async def main():
    async with embedded_index(Settings(), Path(sys.argv[1])) as settings:
        print(settings.index.milvus_uri, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    state = running_milvus(tmp_path)
    if state is not None:
        os.kill(state.server.pid, signal.SIGKILL)


async def hold(data_dir: Path) -> asyncio.subprocess.Process:
    """Another process inside `embedded_index`; it leaves when its stdin closes."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HOLD,
        str(data_dir),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def uri_of(holder: asyncio.subprocess.Process) -> str:
    assert holder.stdout is not None
    async with asyncio.timeout(60):
        return (await holder.stdout.readline()).decode().strip()


async def leave(holder: asyncio.subprocess.Process) -> None:
    assert holder.stdin is not None
    holder.stdin.close()
    async with asyncio.timeout(60):
        assert await holder.wait() == 0


async def test_the_server_answers_inside_the_block_and_is_gone_after_it(data_dir: Path) -> None:
    """What was started for the block ends with it, and the settings point into the data directory."""
    async with embedded_index(Settings(), data_dir) as settings:
        state = running_milvus(data_dir)
        assert state is not None
        assert settings.index.milvus_uri == state.uri
        assert settings.index.catalog_url == f"sqlite:///{data_dir}/catalog.db"
        assert await speaks_http2(state.port)
        [connection] = [c for c in psutil.Process(state.server.pid).net_connections() if c.status == psutil.CONN_LISTEN]
        assert connection.laddr.ip.removeprefix("::ffff:") == "127.0.0.1"
    assert not psutil.pid_exists(state.server.pid)
    assert not (data_dir / "milvus.json").exists()


async def test_a_server_that_died_comes_back_where_it_was(data_dir: Path) -> None:
    """Also when somebody comes before its users have noticed."""
    async with embedded_index(Settings(), data_dir) as settings:
        state = running_milvus(data_dir)
        assert state is not None
        psutil.Process(state.server.pid).kill()
        async with embedded_index(Settings(), data_dir) as later:
            assert later.index.milvus_uri == settings.index.milvus_uri
            assert await speaks_http2(state.port)
        assert running_milvus(data_dir) is not None
    assert running_milvus(data_dir) is None


async def test_an_address_that_was_set_is_left_alone(data_dir: Path) -> None:
    """With a Milvus and a catalog of one's own nothing is started."""
    given = Settings(index=IndexSettings(milvus_uri="http://milvus:19530", catalog_url="sqlite:///elsewhere.db"))
    async with embedded_index(given, data_dir) as settings:
        assert settings.index == given.index
        assert running_milvus(data_dir) is None


async def test_processes_share_one_server_and_the_last_one_stops_it(data_dir: Path) -> None:
    """The starter may leave first; those who joined keep the server."""
    starter = await hold(data_dir)
    uri = await uri_of(starter)
    second, third = await hold(data_dir), await hold(data_dir)
    assert await uri_of(second) == await uri_of(third) == uri
    await leave(starter)
    await leave(second)
    state = running_milvus(data_dir)
    assert state is not None
    assert await speaks_http2(state.port)
    await leave(third)
    assert running_milvus(data_dir) is None


async def test_starting_at_once_starts_one(data_dir: Path) -> None:
    """Concurrent first users get the same server."""
    holders = [await hold(data_dir) for _ in range(3)]
    assert len({await uri_of(holder) for holder in holders}) == 1
    await asyncio.gather(*(leave(holder) for holder in holders))
    assert running_milvus(data_dir) is None


async def test_a_killed_user_neither_takes_the_server_away_nor_pins_it(data_dir: Path) -> None:
    """After kill -9 of the starter the next one adopts the orphan, and stops it."""
    killed = await hold(data_dir)
    uri = await uri_of(killed)
    killed.kill()
    await killed.wait()
    orphan = running_milvus(data_dir)
    assert orphan is not None
    async with embedded_index(Settings(), data_dir) as settings:
        assert settings.index.milvus_uri == uri
    assert not psutil.pid_exists(orphan.server.pid)


@pytest.mark.parametrize("content", [None, "{half", '{"server": {"pid": 1, "started": 1.0}, "port": 1}'])
async def test_an_orphan_is_found_without_its_state_file(data_dir: Path, content: str | None) -> None:
    """Whatever became of the state file, the data directory is never opened by two servers."""
    killed = await hold(data_dir)
    uri = await uri_of(killed)
    killed.kill()
    await killed.wait()
    state_file = data_dir / "milvus.json"
    state_file.unlink() if content is None else state_file.write_text(content)
    async with embedded_index(Settings(), data_dir) as settings:
        assert settings.index.milvus_uri == uri
    assert running_milvus(data_dir) is None


async def test_cancelling_during_the_start_leaves_nothing(data_dir: Path) -> None:
    """Ctrl-C while Milvus Lite starts stops it again."""

    async def enter() -> None:
        async with embedded_index(Settings(), data_dir):
            raise AssertionError("cancelled too late")

    task = asyncio.create_task(enter())
    await until(lambda: running_milvus(data_dir) is not None, every_s=0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running_milvus(data_dir) is None


async def test_a_server_that_cannot_start_says_why(data_dir: Path) -> None:
    """The end of its log is in the message."""
    (data_dir / "milvus").write_text("not a directory")
    with pytest.raises(IndexUnavailable, match=r"(?s)ended while it started.*milvus\.log.*Error"):
        async with embedded_index(Settings(), data_dir):
            pass
    assert not (data_dir / "milvus.json").exists()


async def test_a_data_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A file in the way is a clear error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file/data cannot be made"):
        async with embedded_index(Settings(), tmp_path / "file" / "data"):
            pass


async def test_something_else_on_the_port_is_not_milvus() -> None:
    """Only a greeting in HTTP/2 counts as an answer."""

    async def shout(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    async with server:
        assert not await speaks_http2(server.sockets[0].getsockname()[1])
    assert not await speaks_http2(free_port())


def test_one_server_per_data_directory(data_dir: Path) -> None:
    """The second is told where the first is; afterwards the place is free again."""
    with sole_server(data_dir):
        announce(data_dir, "http://127.0.0.1:1234")
        with (
            pytest.raises(ConfigurationError, match=rf"http://127.0.0.1:1234 by process {os.getpid()}"),
            sole_server(data_dir),
        ):
            pass
        state = running_server(data_dir)
        assert state is not None
        assert state.server == ProcessId.own()
    assert running_server(data_dir) is None
    with sole_server(data_dir):
        pass


def test_a_later_process_with_the_same_pid_is_another(data_dir: Path) -> None:
    """A pid that was used again does not count as alive."""
    own = ProcessId.own()
    assert own.process() is not None
    assert ProcessId(pid=own.pid, started=own.started - 100).process() is None


async def test_a_server_that_dies_comes_back_at_its_address(tmp_path: Path) -> None:
    """Whoever uses it sees to it, and the last one out still stops it."""
    async with embedded_index(Settings(), tmp_path) as settings:
        first = running_milvus(tmp_path)
        assert first is not None
        psutil.Process(first.server.pid).kill()
        await until(lambda: (now := running_milvus(tmp_path)) is not None and now.server != first.server)
        second = running_milvus(tmp_path)
        assert second is not None
        assert second.uri == settings.index.milvus_uri
        async with open_parts(settings) as parts:
            await Patience(60.0).call(parts.store.ping)
    assert running_milvus(tmp_path) is None
