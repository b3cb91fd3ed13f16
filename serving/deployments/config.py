"""The Serve config of a cluster (`serveConfigV2` of a RayService, `serve deploy`) from settings; no Ray is imported.

It names the same builder that runs on a laptop, and says only what differs from the settings' defaults. A secret is
never in it: those come into the pods' environment from Kubernetes Secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel, SecretStr

from serving.deployments.names import APP
from serving.errors import ConfigurationError
from serving.settings import Settings

#: What a cluster wants otherwise than a laptop, where nothing else was said: replicas that one can lose, whole CPUs, an
#: LLM that sleeps and says that it wants a GPU before there is one, everything else away from GPU nodes.
_ON_A_CLUSTER: Mapping[str, Mapping[str, Any]] = {
    "api": {"replicas": 2, "max_replicas": 4, "cpus": 0.5},
    "embedder": {"max_replicas": 4, "cpus": 1.0},
    "llm": {"device": "gpu", "min_replicas": 0},
    "scaling": {"cpu_plane": True},
    "telemetry": {"log_json": True},
}
#: What the proxies and pods have, or what comes to the pods from Secrets: it may hold a password in its middle.
_NOT_HERE = {("api", "host"), ("api", "port"), ("api", "keys"), ("api", "keys_file"), ("index", "catalog_url")}
_NOT_HERE |= {("index", "milvus_token"), ("ingestion", "stores")}
_SECRET_NAME = re.compile(r"token$|secret|passw|credential|api_?key|access_?key", re.IGNORECASE)
_SECRET_URL = re.compile(r"://[^/@\s]+@")
#: Serve's port in every pod; the proxies of all nodes listen there.
PORT = 8000
#: Longer than the idle time of usual load balancers (60 s), so that they and not we close a connection.
_KEEP_ALIVE_S = 75


def serve_config(settings: Settings) -> dict[str, Any]:
    """As `ray.serve.schema.ServeDeploySchema` has it.

    Raises ConfigurationError for a secret in a setting that would show it.
    """
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": PORT, "keep_alive_timeout_s": _KEEP_ALIVE_S},
        "logging_config": {"encoding": "JSON", "enable_access_log": False},
        "applications": [
            {
                "name": APP,
                "route_prefix": "/",
                "import_path": "serving.deployments:build",
                "args": _arguments(on_a_cluster(settings)),
            }
        ],
    }


def serve_config_text(settings: Settings) -> str:
    """The same as YAML. Raises as `serve_config`."""
    return yaml.safe_dump(serve_config(settings), sort_keys=False, width=120)


def on_a_cluster(settings: Settings) -> Settings:
    """With what a cluster wants wherever the environment or a flag says nothing."""
    changed: dict[str, Any] = {}
    for name, wanted in _ON_A_CLUSTER.items():
        if name == "llm" and not settings.llm.model:
            continue
        group = getattr(settings, name)
        given = group.model_fields_set if name in settings.model_fields_set else set()
        values = {field: value for field, value in wanted.items() if field not in given}
        if name in ("api", "embedder"):
            values = _in_order(values, group, given)
        changed[name] = group.model_copy(update=values)
    return settings.model_copy(update=changed)


def _in_order(values: dict[str, Any], group: Any, given: set[str]) -> dict[str, Any]:
    """Whoever says one of the two bounds gets another one that goes with it."""
    if "max_replicas" in given and "replicas" in values:
        values["replicas"] = min(values["replicas"], group.max_replicas)
    if "replicas" in given and "max_replicas" in values:
        values["max_replicas"] = max(values["max_replicas"], group.replicas)
    return values


def _arguments(settings: Settings) -> dict[str, Any]:
    arguments = _different(settings, Settings.model_construct(), ())
    for path, value in _leaves(arguments, ()):
        name = ".".join(path)
        if _SECRET_NAME.search(path[-1]) or (isinstance(value, str) and _SECRET_URL.search(value)):
            raise ConfigurationError(
                f"The setting {name} seems to hold a secret, which the Serve config would show: put it into a Secret "
                "that the pods' environment takes it from, and leave it out here."
            )
    return arguments


def _different(group: BaseModel, default: BaseModel, path: tuple[str, ...]) -> dict[str, Any]:
    """The fields that differ, in groups, as JSON has them."""
    found: dict[str, Any] = {}
    plain = group.model_dump(mode="json", exclude=_secrets(group))
    for name in type(group).model_fields:
        value, usual = getattr(group, name), getattr(default, name)
        if (*path, name) in _NOT_HERE or value == usual:
            continue
        if isinstance(value, BaseModel):
            found |= {name: inner} if (inner := _different(value, usual, (*path, name))) else {}
        elif name in plain:
            found[name] = plain[name]
    return found


def _secrets(group: BaseModel) -> set[str]:
    return {name for name in type(group).model_fields if isinstance(getattr(group, name), SecretStr)}


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, str(name)))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    else:
        yield path, value
