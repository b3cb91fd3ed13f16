"""The Secrets that a deployment needs: made once with random values, or asked for. Never overwritten, never shown."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from serving.cluster.connection import Cluster
from serving.cluster.objects import INSTANCE, MANAGED_BY, MANAGER, PART_OF, Json, identity, secret_references
from serving.errors import ClusterRefused, ConfigurationError

#: URL-safe: they stand in a URL, in an environment and in a command's arguments.
_BYTES = 32
#: What our own PostgreSQL is called, and who works in it (components/postgres).
_POSTGRES = "postgres"
_POSTGRES_USER = "anchorage"


@dataclass(frozen=True, slots=True)
class Missing:
    """A Secret that pods need and that is not there: `made` if we can make it, else `how` says what the user does."""

    name: str
    keys: tuple[str, ...]
    made: bool
    how: str = ""


def missing(cluster: Cluster, namespace: str, things: Sequence[Json]) -> list[Missing]:
    """Whether a key is there is asked for, its value is not kept. Raises as Cluster."""
    given = {identity(thing).name: set(thing.get("data") or thing.get("stringData") or {}) for thing in things
             if thing.get("kind") == "Secret"}  # fmt: skip
    needed: dict[str, set[str]] = {}
    for (name, key), optional in secret_references(things).items():
        if not optional:
            needed.setdefault(name, set()).update({key} - {""})
    for made_elsewhere in _made_by_others(things):
        needed.pop(made_elsewhere, None)
    found: list[Missing] = []
    for name, keys in sorted(needed.items()):
        there = set((cluster.find(_path(namespace, name)) or {}).get("data") or {}) | given.get(name, set())
        lacking = keys - there
        # One that is only mounted has no keys that we know of: it has to be there.
        if lacking or (not keys and not there):
            made = not there and lacking <= set(_generators(things).get(name, {}))
            found.append(Missing(name, tuple(sorted(lacking)), made, "" if made else _how(name, lacking, namespace)))
    return found


def make(cluster: Cluster, namespace: str, things: Sequence[Json], wanted: Sequence[Missing]) -> list[str]:
    """Create what is missing; those that somebody made meanwhile stay as they are. Returns names."""
    generators = _generators(things)
    made: list[str] = []
    # A URL contains the password that comes before it.
    for name in [name for name in generators if name in {each.name for each in wanted if each.made}]:
        values = {key: generate(cluster, namespace) for key, generate in generators[name].items()}
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {
                    "app.kubernetes.io/name": "anchorage",
                    "app.kubernetes.io/component": "secret",
                    PART_OF: "anchorage",
                    MANAGED_BY: MANAGER,
                    INSTANCE: namespace,
                },
            },
            "type": "Opaque",
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
        }
        try:
            cluster.create(_path(namespace, ""), body, {"fieldManager": MANAGER})
            made.append(name)
        except ClusterRefused as refused:
            if refused.reason != "AlreadyExists":
                # What was sent is not repeated: a server's message may quote it.
                raise ClusterRefused(f"The Secret {name} could not be created ({refused.status} {refused.reason}).",
                                     status=refused.status, reason=refused.reason) from None  # fmt: skip
    return made


Generate = Callable[[Cluster, str], str]


def _generators(things: Sequence[Json]) -> Mapping[str, Mapping[str, Generate]]:
    """Secrets that are nobody's but this deployment's, in the order in which they are made."""
    generators: dict[str, Mapping[str, Generate]] = {
        "anchorage-ray": {"auth_token": _random},
        "anchorage-redis": {"password": _random},
        "anchorage-object-storage": {"accesskey": _random, "secretkey": _random},
    }
    if any(thing.get("kind") == "StatefulSet" and identity(thing).name == _POSTGRES for thing in things):
        generators |= {"anchorage-postgres": {"password": _random}, "anchorage-index": {"catalog-url": _catalog_url}}
    return generators


def _random(cluster: Cluster, namespace: str) -> str:
    return secrets.token_urlsafe(_BYTES)


def _catalog_url(cluster: Cluster, namespace: str) -> str:
    """Of our own PostgreSQL, whose password is there by now. Raises ConfigurationError."""
    kept = (cluster.find(_path(namespace, "anchorage-postgres")) or {}).get("data") or {}
    if "password" not in kept:
        raise ConfigurationError("The Secret anchorage-postgres has no key `password`: the catalog's URL needs it.")
    password = base64.b64decode(kept["password"]).decode()
    from urllib.parse import quote

    return f"postgresql+asyncpg://{_POSTGRES_USER}:{quote(password, safe='')}@{_POSTGRES}:5432/anchorage"


def _made_by_others(things: Sequence[Json]) -> set[str]:
    """Secrets that an operator makes from one of our objects: cert-manager from a Certificate."""
    return {
        str(thing["spec"]["secretName"])
        for thing in things
        if thing.get("kind") == "Certificate" and (thing.get("spec") or {}).get("secretName")
    }


def _how(name: str, keys: set[str], namespace: str) -> str:
    wanted = ", ".join(sorted(keys)) or "what its README names"
    example = " with a line `catalog-url=postgresql+asyncpg://...`" if "catalog-url" in keys else ""
    return (
        f"make it from a file that nobody else reads{example}, or by your secret store: "
        f"kubectl create secret generic {name} --namespace {namespace} --from-env-file=FILE (keys: {wanted})"
    )


def _path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets" + (f"/{name}" if name else "")
