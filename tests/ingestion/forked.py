"""`anchorage` without its start-up: a process that has imported everything forks one command after the other.

Each command runs `serving.cli.main` in a process of its own, which can be killed at any moment like a real one. Reads a
JSON list of arguments a line, answers with the child's pid, and, when it has ended, with its exit code (negative: the
signal).
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    import pymilvus
    import sentence_transformers
    import torch

    import ingestion.parts
    import ingestion.pipeline
    from serving.cli import main as anchorage

    assert all((pymilvus, sentence_transformers, torch, ingestion.parts, ingestion.pipeline))
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(anchorage, json.loads(line))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(anchorage: object, arguments: list[str]) -> None:
    """The child: never returns."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.argv = ["anchorage", *arguments]
    code: object = 1
    try:
        anchorage()  # type: ignore[operator]
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
