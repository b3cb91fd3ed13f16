"""Names, labels, quantities and schedules as Kubernetes reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PORT = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?\d+)?")
_SUFFIXES = {
    "": Decimal(1),
    **{name: Decimal(1024) ** (i + 1) for i, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))},
    **{name: Decimal(10) ** power for name, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)},
}
#: Fields of a cron schedule: minute, hour, day of month, month, day of week.
_CRON = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def quantity(text: str | float) -> Decimal | None:
    """8Gi, 500m, 1e3 as a number; None for what is none."""
    found = _QUANTITY.fullmatch(str(text))
    if not found:
        return None
    number, suffix = Decimal(found[1]), found[2] or ""
    if suffix in _SUFFIXES:
        return number * _SUFFIXES[suffix]
    return number * Decimal(10) ** int(suffix[1:])


def dns_label(name: str) -> str | None:
    """What is wrong with it as RFC 1123 has labels, or None."""
    if len(name) > 63 or not _LABEL.fullmatch(name):
        return f"{name!r} is no DNS label (RFC 1123): lower case letters, digits and '-', at most 63"
    return None


def dns_1035(name: str, longest: int = 63) -> str | None:
    """What is wrong with it as RFC 1035 has labels, or None."""
    if len(name) > longest or not _LABEL_1035.fullmatch(name):
        return f"{name!r} is no DNS-1035 label: lower case letters, digits and '-', a letter first, at most {longest}"
    return None


def dns_subdomain(name: str) -> str | None:
    """What is wrong with it as a DNS subdomain, or None."""
    if len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        return f"{name!r} is no DNS subdomain (RFC 1123): lower case letters, digits, '-' and '.'"
    return None


def port_name(name: str) -> str | None:
    """What is wrong with it as the name of a port, or None."""
    if len(name) > 15 or not _PORT.fullmatch(name) or not re.search("[a-z]", name) or "--" in name:
        return f"{name!r} is no port name: lower case letters, digits and '-', at most 15, with a letter"
    return None


def label_key(key: str) -> str | None:
    """What is wrong with it as a label's or an annotation's key, or None."""
    prefix, slash, name = key.rpartition("/")
    if slash and dns_subdomain(prefix):
        return f"the prefix of {key!r} is no DNS subdomain"
    if len(name) > 63 or not _QUALIFIED.fullmatch(name):
        return f"{key!r}: the name must be letters, digits, '-', '_' and '.', at most 63"
    return None


def label_value(value: Any) -> str | None:
    """What is wrong with it as a label's value, or None."""
    if not isinstance(value, str):
        return f"{value!r} is no string: quote it"
    if value and (len(value) > 63 or not _QUALIFIED.fullmatch(value)):
        return f"{value!r} must be letters, digits, '-', '_' and '.', at most 63"
    return None


def labels(given: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with keys and values."""
    for key, value in given.items():
        yield from (fault for fault in (label_key(key), label_value(value)) if fault)


def schedule(text: str) -> str | None:
    """What is wrong with it as a cron schedule (five fields; names of months and days are not understood), or None."""
    if text.startswith("@"):
        return None if text in {"@hourly", "@daily", "@weekly", "@monthly", "@yearly"} else f"{text!r} is unknown"
    fields = text.split()
    if len(fields) != len(_CRON):
        return f"{text!r} has {len(fields)} fields, a schedule has 5"
    for field, (low, high) in zip(fields, _CRON, strict=True):
        for part in field.split(","):
            found = re.fullmatch(r"(?:\*|(\d+)(?:-(\d+))?)(?:/([1-9]\d*))?", part)
            if not found or any(number and not low <= int(number) <= high for number in found.group(1, 2)):
                return f"{part!r} in {text!r} is not within {low} and {high}"
    return None


def selects(selector: Mapping[str, Any] | None, found: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels, matchExpressions) takes these labels. An empty one takes all."""
    given = selector or {}
    if any(found.get(key) != value for key, value in (given.get("matchLabels") or {}).items()):
        return False
    return all(_holds(one, found) for one in given.get("matchExpressions") or ())


def _holds(expression: Mapping[str, Any], found: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    return {
        "In": found.get(key) in values,
        "NotIn": found.get(key) not in values,
        "Exists": key in found,
        "DoesNotExist": key not in found,
    }[expression["operator"]]
