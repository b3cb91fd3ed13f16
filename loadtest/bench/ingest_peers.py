"""Interpreters of the peers: each in an environment of its own, made on first use below the user's cache folder.

What the peers ask for and ours has (PyTorch, sentence-transformers) is ours: both sides calculate with the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import sysconfig
from pathlib import Path

from loadtest.bench.client import BenchError

_REQUIREMENTS = Path(__file__).with_name("peers")
_READY = "ready"


async def interpreter(peer: str) -> Path:
    """That of `peers/PEER.txt`. Raises BenchError when it cannot be installed."""
    wanted = (_REQUIREMENTS / f"{peer}.txt").read_bytes()
    shared = sysconfig.get_path("purelib")
    mark = hashlib.sha256(wanted + shared.encode() + sys.version.encode()).hexdigest()[:12]
    folder = _cache() / f"{peer}-{mark}"
    python = folder / "bin" / "python"
    if not (folder / _READY).exists():
        await _run(sys.executable, "-m", "venv", "--clear", str(folder))
        where = await _run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
        (Path(where.strip()) / "anchorage-bench.pth").write_text(shared + "\n", encoding="utf-8")
        install = ("-m", "pip", "install", "--quiet", "--no-warn-conflicts", "--disable-pip-version-check")
        await _run(str(python), *install, "-r", str(_REQUIREMENTS / f"{peer}.txt"))
        (folder / _READY).touch()
    return python


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "anchorage-bench"


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    if process.returncode:
        raise BenchError(f"{' '.join(command[:4])} failed:\n{errors.decode(errors='replace')[-2000:]}")
    return output.decode()
