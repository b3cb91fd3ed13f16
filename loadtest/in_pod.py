"""What a pod of a load test runs: locust as master or as worker, its progress and its result in the pod's log.

    python -m loadtest.in_pod --workers 2 --wait-s 1800 -- --host=http://anchorage --arrivals=poisson:10 …
    python -m loadtest.in_pod --master anchorage-loadtest --wait-s 1800

The first waits for its workers, the second for its master; both give up after `--wait-s`. Exit codes are locust's
(`loadtest.locustfile`); 3 for a master that was not there in time.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from loadtest import by_log

PORT = 5557
_LOCUST = (sys.executable, "-m", "loadtest.locustfile")
_LOOK_S = 0.5
_CONNECT_S = 5.0
_NO_MASTER = 3
_TERMINATED = 128 + signal.SIGTERM


def main(arguments: Sequence[str]) -> int:
    asked = _options().parse_args(arguments)
    if asked.master:
        worker(asked.master, asked.port, asked.wait_s)
    with tempfile.TemporaryDirectory(prefix="loadtest-") as made:
        return master(Path(made), asked)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.in_pod", description=__doc__)
    role = parser.add_mutually_exclusive_group(required=True)
    role.add_argument("--workers", type=int, help="Be the master of so many.")
    role.add_argument("--master", metavar="HOST", help="Be a worker of that master.")
    parser.add_argument("--port", type=int, default=PORT, help="Of the master.")
    parser.add_argument("--wait-s", type=float, default=1800.0, help="For the workers, or for the master.")
    parser.add_argument("locust", nargs="*", help="Of the master: the options of `python -m loadtest.locustfile`.")
    return parser


def master(folder: Path, asked: argparse.Namespace) -> int:
    """Runs locust, copies its progress, prints its result."""
    result, progress = folder / "result.json", folder / "progress.jsonl"
    more = [f"--expect-workers={asked.workers}", f"--expect-workers-max-wait={int(asked.wait_s)}"]
    more += [f"--master-bind-port={asked.port}", f"--result={result}", f"--progress={progress}"]
    with subprocess.Popen([*_LOCUST, "--headless", "--only-summary", "--master", *more, *asked.locust]) as locust:
        # The first process of a container ends by no signal that it does not take itself.
        signal.signal(signal.SIGTERM, lambda number, frame: locust.send_signal(number))
        code = _accompany(locust, progress)
    if result.is_file():
        for line in by_log.lines(result.read_bytes()):
            print(line, flush=True)
    return code if code >= 0 else 128 - code


def _accompany(locust: subprocess.Popen[bytes], progress: Path) -> int:
    """Its exit code, after its progress was printed, line by line as it came."""
    read = 0
    while True:
        code = locust.poll()
        read += _copy(progress, read)
        if code is not None:
            return code
        time.sleep(_LOOK_S)


def _copy(progress: Path, read: int) -> int:
    """How many bytes were whole lines."""
    if not progress.is_file():
        return 0
    with progress.open("rb") as file:
        file.seek(read)
        whole = file.read().rpartition(b"\n")[0]
    for line in whole.decode().splitlines():
        print(f"{by_log.PROGRESS}{line}", flush=True)
    return len(whole) + 1 if whole else 0


def worker(host: str, port: int, wait_s: float) -> NoReturn:
    """Becomes locust as soon as the master listens; its pod may have to wait for a node."""
    signal.signal(signal.SIGTERM, _end)
    deadline = time.monotonic() + wait_s
    while not _listens(host, port):
        if time.monotonic() > deadline:
            print(f"The master {host}:{port} was not there within {wait_s:g} s.", file=sys.stderr)
            raise SystemExit(_NO_MASTER)
        time.sleep(_LOOK_S)
    os.execv(_LOCUST[0], [*_LOCUST, "--worker", f"--master-host={host}", f"--master-port={port}"])


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True


def _end(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(_TERMINATED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
