"""What a server says of itself before it is tested, for whoever reads the result."""

from __future__ import annotations

import time
from typing import Any

from loadtest.connection import Connections
from loadtest.failures import Failure
from loadtest.reply import Whole
from loadtest.target import Target

#: Nobody waits longer for what is but a note.
_WITHIN_S = 10.0
_MOST_MODELS = 10


def introduction(target: Target) -> dict[str, Any]:
    """Its models; of ours also the parts that /readyz names, and whether each is ready. Empty where it does not say."""
    said: dict[str, Any] = {}
    models = _told(target, "/v1/models").get("data")
    if isinstance(models, list):
        names = [str(one["id"]) for one in models if isinstance(one, dict) and "id" in one]
        said["models"] = ", ".join(names[:_MOST_MODELS]) + (" …" if len(names) > _MOST_MODELS else "")
    parts = {} if target.plain else _told(target, "/readyz").get("parts")
    if isinstance(parts, dict) and parts:
        ready = {name: isinstance(part, dict) and bool(part.get("ready")) for name, part in parts.items()}
        said["parts"] = {name: "ready" if is_ready else "not ready" for name, is_ready in ready.items()}
    return said


def _told(target: Target, path: str) -> dict[str, Any]:
    reply = Whole()
    key = f"Authorization: Bearer {target.api_key}\r\n" if target.api_key else ""
    head = f"GET {target.prefix}{path} HTTP/1.1\r\nHost: {target.authority}\r\n{key}Accept: application/json\r\n\r\n"
    connections = Connections(target)
    try:
        connections.send(head.encode(), reply, time.perf_counter, time.perf_counter() + _WITHIN_S)
    except Failure:
        return {}
    finally:
        connections.close()
    return reply.data
