"""Real parts for the contracts of the index: a Milvus Lite server, SQLite, PostgreSQL where it is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from serving.index.catalog import Catalog
from serving.index.milvus import Milvus
from serving.ports import free_port
from serving.settings import IndexSettings
from tests.contract.corpus import DIMENSION

# The server ends cleanly on SIGINT alone, which a child of a background job ignores.
_LAUNCH = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from milvus_lite.cmdline import main; sys.exit(main())"
)


class MilvusLiteServer:
    """A Milvus Lite server that can be stopped, killed and started again on the same port and folder."""

    def __init__(self, data_dir: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._data_dir = data_dir
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = ["server", "--data-dir", str(self._data_dir), "--host", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, "the Milvus Lite server ended"
            time.sleep(0.1)
        raise TimeoutError("the Milvus Lite server did not start")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def milvus_lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusLiteServer]:
    """One server for all tests that do not break it."""
    server = MilvusLiteServer(tmp_path_factory.mktemp("milvus"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def breakable_milvus(tmp_path: Path) -> Iterator[MilvusLiteServer]:
    """A server of the test's own, to be killed."""
    server = MilvusLiteServer(tmp_path / "milvus")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def store(milvus_lite: MilvusLiteServer) -> AsyncIterator[Milvus]:
    """A store for a tenant that no other test has."""
    milvus = Milvus.connect(IndexSettings(milvus_uri=milvus_lite.uri, tenant=uuid.uuid4().hex))
    yield milvus
    await milvus.close()


@pytest.fixture(scope="session")
async def index(milvus_lite: MilvusLiteServer) -> str:
    """An index that all tests share: tenants and collections keep them apart."""
    milvus = Milvus.connect(IndexSettings(milvus_uri=milvus_lite.uri))
    await milvus.ensure("anchorage_contract", DIMENSION)
    await milvus.close()
    return "anchorage_contract"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a private PostgreSQL, where its programs are installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").is_dir() else []
    where = str(programs[-1]) if programs else os.path.dirname(shutil.which("pg_ctl") or "")
    if not where:
        pytest.skip("PostgreSQL is not installed")
    # PostgreSQL does not run as root.
    other = os.geteuid() == 0 and _has_account("postgres")
    # Not by subprocess's own `user`: it forks for that, and gRPC's threads do not outlive a fork unharmed.
    account = ["runuser", "-u", "postgres", "--"] if other else []
    folder = tempfile.mkdtemp(prefix="anchorage-postgresql-")
    port = free_port()
    if other:
        shutil.chown(folder, "postgres", "postgres")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    try:
        control = [*account, f"{where}/pg_ctl", "-D", f"{folder}/data", "-w"]
        for command in (
            [*account, f"{where}/initdb", "-D", f"{folder}/data", "-U", "postgres", "-A", "trust", "-E", "UTF8"],
            [*control, "-l", f"{folder}/log", "-o", options, "start"],
        ):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        subprocess.run([*control, "-m", "fast", "stop"], check=True, stdout=subprocess.DEVNULL, cwd=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
async def catalog_settings(request: pytest.FixtureRequest, tmp_path: Path) -> IndexSettings:
    """Settings of a catalog that no other test has, on every database we support."""
    url = f"sqlite:///{tmp_path}/catalog/catalog.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql")
    return IndexSettings(catalog_url=url, tenant=uuid.uuid4().hex)


@pytest.fixture
async def catalog(catalog_settings: IndexSettings) -> AsyncIterator[Catalog]:
    opened = Catalog.connect(catalog_settings)
    yield opened
    await opened.close()


def _has_account(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
