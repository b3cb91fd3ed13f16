"""What load tests need beyond the rest of Anchorage: here one can ask for it without importing any of it."""

from __future__ import annotations

import importlib.util

from serving.errors import ConfigurationError

_NEEDED = {"locust": "locust", "geventhttpclient": "geventhttpclient", "hdrh": "hdrhistogram", "jinja2": "jinja2"}


#: What results are read and shown with; the rest is for making load.
SHOWING = ("hdrh", "jinja2")


def check_installed(*modules: str) -> None:
    """All of them, or these. Raises ConfigurationError that says how to install what is missing."""
    missing = [_NEEDED[module] for module in modules or _NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigurationError(f"load tests need {', '.join(missing)}: `make install EXTRA=loadtest`")
