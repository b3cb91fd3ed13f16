"""Where and of what a figure is: it travels with every table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("locust", "ray", "fastapi", "uvicorn", "pymilvus", "milvus-lite", "sentence-transformers", "torch")


def describe(command: str) -> dict[str, Any]:
    """CPU, memory (bytes), load, versions, commit, and `command` with the arguments of this process."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": psutil.virtual_memory().total,
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "command": shlex.join([*shlex.split(command), *sys.argv[1:]]),
    }


def header(machine: dict[str, Any]) -> list[str]:
    """The same, as the lines above a table."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    memory = machine["memory"] / 2**30
    return [
        machine["command"],
        f"{machine['at']}, commit {machine['commit']}",
        f"{machine['cpu']}, {machine['cores']} cores, {memory:.0f} GiB, load before {machine['load'][0]}",
        f"Python {machine['python']}, {versions}",
    ]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """Short commit, with `+` when the working tree differs from it."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
