"""`python -m loadtest.bench NAME`."""

from __future__ import annotations

from loadtest.bench.cli import main

if __name__ == "__main__":
    main()
