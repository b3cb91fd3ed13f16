"""One /metrics for all replicas: their Prometheus texts, each sample labelled with the replica it came from."""

from __future__ import annotations

from collections.abc import Iterable


def merge(texts: Iterable[tuple[str, str]]) -> str:
    """(replica, exposition text) pairs as one exposition: every family's HELP and TYPE once, its samples together."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for replica, text in texts:
        family, own_head = "", False
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = line.split(" ", 3)[2]
                own_head = family not in heads
                heads.setdefault(family, [])
            if line.startswith("#"):
                if own_head:
                    heads[family].append(line)
            elif line:
                samples.setdefault(family, []).append(_labelled(line, replica))
    return "".join(f"{line}\n" for family, lines in samples.items() for line in (*heads.get(family, ()), *lines))


def _labelled(sample: str, replica: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f'{name}{{replica="{replica}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{replica="{replica}"}} {value}'
