"""What load tests need beyond the rest of Anchorage: here one can ask for it without importing any of it."""

from __future__ import annotations

import importlib.util

from serving.errors import ConfigurationError

_NEEDED = {"locust": "locust", "geventhttpclient": "geventhttpclient", "hdrh": "hdrhistogram", "jinja2": "jinja2"}


def check_installed() -> None:
    """Raises ConfigurationError that says how to install what is missing."""
    missing = [name for module, name in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigurationError(f"load tests need {', '.join(missing)}: `make install EXTRA=loadtest`")
