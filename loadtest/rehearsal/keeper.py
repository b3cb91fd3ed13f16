"""Ends everything that a rehearsal has started, whatever ended the rehearsal itself.

`python -m loadtest.rehearsal.keeper FOLDER` waits until its standard input is closed, by whoever started it or by the
kernel when that one was killed. Then it kills every process that carries the folder in its environment or command
line, and removes the folder. `ray stop` would end everybody's Ray.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from pathlib import Path

import psutil

#: In the environment of everything that a rehearsal starts.
MARK = "ANCHORAGE_REHEARSAL_FOLDER"

#: A process that is just being started by one that is killed is found in the next round.
_ROUNDS = 10
_WAIT_S = 5.0


def main(folder: Path) -> None:
    sys.stdin.buffer.read()
    end(folder)


def end(folder: Path) -> None:
    """Nothing of it is left afterwards."""
    for _ in range(_ROUNDS):
        left = family(folder)
        if not left:
            break
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_WAIT_S)
    shutil.rmtree(folder, ignore_errors=True)


def family(folder: Path) -> list[psutil.Process]:
    """The living processes of the rehearsal in this folder, whoever is their parent now; never the one that asks."""
    own = psutil.Process().pid
    return [process for process in psutil.process_iter() if process.pid != own and _belongs(process, str(folder))]


def _belongs(process: psutil.Process, folder: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # Ray's workers write their titles over their command lines, and some over their environments.
        return process.environ().get(MARK) == folder or any(folder in part for part in process.cmdline())
    except psutil.Error:
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
