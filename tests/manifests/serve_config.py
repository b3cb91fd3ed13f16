"""Layer 5: `serveConfigV2`. Serve's own schema, and what it lets pass: it ignores every key that it does not know."""

from __future__ import annotations

import functools
import importlib
import json
import os
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import yaml
from pydantic import BaseModel, ValidationError

from serving.errors import ConfigurationError
from tests.manifests.documents import Document, Rendered, pods, title

if TYPE_CHECKING:
    from serving.settings import Settings

PREFIX = "ANCHORAGE_"


def faults(rendered: Rendered) -> list[str]:
    """Of every RayService."""
    return [
        f"{title(document)}: spec.serveConfigV2: {fault}"
        for document in rendered.of("RayService")
        for fault in _service(document, rendered)
    ]


def _service(document: Document, rendered: Rendered) -> tuple[str, ...]:
    text = document["spec"].get("serveConfigV2")
    if not isinstance(text, str) or not text.strip():
        return ("is empty: it comes from serve.yaml by a replacement",)
    return _config(text, json.dumps(environment(document, rendered), sort_keys=True))


@functools.cache
def _config(text: str, variables: str) -> tuple[str, ...]:
    from ray.serve.schema import ServeDeploySchema

    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return (f"is no YAML: {error}",)
    if not isinstance(config, dict):
        return ("is no mapping",)
    found = list(unknown(ServeDeploySchema, config))
    try:
        schema = ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        return (*found, *(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()))
    found += _http(config)
    for application in schema.applications:
        found += [f"applications.{application.name}: {one}" for one in _application(application)]
    with environ(json.loads(variables)):
        for application in schema.applications:
            found += [f"applications.{application.name}.args: {one}" for one in _arguments(application.args)]
    return tuple(found)


def unknown(model: type[BaseModel], value: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Keys that no field of the model or of those within has."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    fields |= model.model_fields
    for key, below in value.items():
        if key not in fields:
            yield f"{path}{key}: Serve does not know it and would ignore it: is it misspelt?"
            continue
        for inner in _models(fields[key].annotation):
            for i, one in enumerate(below if isinstance(below, list) else [below]):
                if isinstance(one, Mapping):
                    step = f"{key}.{i}" if isinstance(below, list) else key
                    yield from unknown(inner, one, f"{path}{step}.")


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Of `Model`, `Model | None`, `list[Model]`; where a field is a dict that is a model later, that one, too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list, tuple):
        return [model for one in typing.get_args(annotation) for model in _models(one)]
    return []


def _http(config: Mapping[str, Any]) -> Iterator[str]:
    from serving.deployments.config import PORT

    options = config.get("http_options") or {}
    if options.get("host") != "0.0.0.0":
        yield f"http_options.host: {options.get('host', '127.0.0.1')} is not reachable from other pods: 0.0.0.0"
    if options.get("port", PORT) != PORT:
        yield f"http_options.port: {options['port']} is not the {PORT} of Service, probes and policies"
    if config.get("proxy_location", "EveryNode") != "EveryNode":
        yield "proxy_location: must be EveryNode: HeadOnly sends all traffic through the head"


def _application(application: Any) -> Iterator[str]:
    from serving.deployments.names import API, EMBEDDER, INGESTOR, LLM

    if not str(application.route_prefix or "/").startswith("/"):
        yield f"route_prefix: {application.route_prefix!r} must begin with '/'"
    module, _, name = application.import_path.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        yield f"import_path: {application.import_path}: {error}"
        return
    if not callable(found):
        yield f"import_path: {module} has no {name}"
    for deployment in application.deployments:
        given = deployment.model_dump(exclude_unset=True)
        if deployment.name not in (API, EMBEDDER, INGESTOR, LLM):
            yield f"deployments.{deployment.name}: the application has none of this name"
        yield from (f"deployments.{deployment.name}: {one}" for one in _deployment(given))


def _deployment(given: Mapping[str, Any]) -> Iterator[str]:
    """`autoscaling_config` is a plain dict in the schema: a model only when a deployment is made of it."""
    from ray.serve.config import AutoscalingConfig

    scaling = given.get("autoscaling_config")
    if not isinstance(scaling, Mapping):
        return
    try:
        AutoscalingConfig(**scaling)
    except ValidationError as error:
        yield from (f"autoscaling_config: {one['msg']}" for one in error.errors())


def _arguments(args: Mapping[str, Any]) -> Iterator[str]:
    from serving.deployments.arguments import read_settings

    try:
        read_settings(args)
    except ConfigurationError as error:
        yield str(error)


def settings(document: Document, rendered: Rendered) -> Settings | None:
    """Those that a RayService gives the application: its args over the head's environment. None where there are none;
    faults() says why.
    """
    text = document["spec"].get("serveConfigV2") or ""
    return _settings(text, json.dumps(environment(document, rendered), sort_keys=True))


@functools.cache
def _settings(text: str, variables: str) -> Settings | None:
    from serving.deployments.arguments import read_settings

    try:
        applications = (yaml.safe_load(text) or {}).get("applications") or [{}]
        with environ(json.loads(variables)):
            return read_settings(applications[0].get("args") or {})
    except (yaml.YAMLError, ConfigurationError, AttributeError):
        return None


def environment(document: Document, rendered: Rendered) -> dict[str, str]:
    """Plain variables of the head's container: what the builder sees."""
    head = next(iter(pods(document)), None)
    return variables(head.spec["containers"][0], rendered) if head and head.spec.get("containers") else {}


def variables(container: Mapping[str, Any], rendered: Rendered) -> dict[str, str]:
    """Those that have a value in the render: of `env`, and of the ConfigMaps that it names."""
    found: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        name = (source.get("configMapRef") or {}).get("name")
        config = rendered.named("ConfigMap", name) if name else None
        found |= {source.get("prefix", "") + key: value for key, value in ((config or {}).get("data") or {}).items()}
    for variable in container.get("env") or ():
        reference = (variable.get("valueFrom") or {}).get("configMapKeyRef") or {}
        config = rendered.named("ConfigMap", reference["name"]) if reference else None
        if "value" in variable:
            found[variable["name"]] = variable["value"]
        elif config and reference["key"] in (config.get("data") or {}):
            found[variable["name"]] = config["data"][reference["key"]]
    return found


@contextmanager
def environ(variables: Mapping[str, str]) -> Iterator[None]:
    """These ANCHORAGE_ variables and none of this process."""
    ours = {name: value for name, value in variables.items() if name.startswith(PREFIX)}
    rest = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    with mock.patch.dict(os.environ, {**rest, **ours}, clear=True):
        yield
