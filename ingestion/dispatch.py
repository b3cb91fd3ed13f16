"""An ingestion as a RayJob of this cluster: a copy of a suspended one, let go and waited for. The only importer of
`kubernetes` in ingestion.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from serving.errors import ConfigurationError, NotFound, WorkersUnavailable

_GROUP, _VERSION, _PLURAL = "ray.io", "v1", "rayjobs"
#: KubeRay makes pods' names of it.
_LONGEST_NAME = 47
_LOOK_S = 10.0
#: The API server may be away so long, as it is while a control plane is upgraded, seconds.
_PATIENCE_S = 600.0
#: Of `status.jobDeploymentStatus`; before them the job is pending, running or tried again.
_ENDS = frozenset({"Complete", "Failed", "ValidationFailed"})


@dataclass(frozen=True, slots=True)
class Ended:
    """How it went, as KubeRay says it."""

    name: str
    succeeded: bool
    message: str


class RayJobs:
    """The RayJobs of one namespace."""

    def __init__(self, api: Any, namespace: str, *, look_s: float = _LOOK_S, patience_s: float = _PATIENCE_S) -> None:
        self._api = api
        self._namespace = namespace
        self._look_s = look_s
        self._patience_s = patience_s

    def dispatch(self, template: str, name: str, on_state: Callable[[str], None] = lambda state: None) -> Ended:
        """Run a copy of `template` called `name`; one that exists already is waited for. Blocking.

        Raises NotFound (no such template), ConfigurationError (a name that cannot be, what the cluster refuses),
        WorkersUnavailable (the API server does not answer).
        """
        if not 0 < len(name) <= _LONGEST_NAME:
            raise ConfigurationError(f"{name!r}: a RayJob's name has 1 to {_LONGEST_NAME} characters.")
        if self._get(name) is None:
            found = self._get(template)
            if found is None:
                raise NotFound(f"There is no RayJob {template!r} in namespace {self._namespace!r} to make a copy of.")
            self._create(copy_of(found, name))
        last = ""
        while True:
            job = self._get(name)
            if job is None:
                return Ended(name, False, "it was deleted before it ended")
            status = job.get("status") or {}
            state = str(status.get("jobDeploymentStatus") or "New")
            if state != last:
                on_state(state)
                last = state
            if state in _ENDS:
                succeeded = state == "Complete" and status.get("jobStatus") == "SUCCEEDED"
                return Ended(name, succeeded, str(status.get("message") or status.get("reason") or ""))
            time.sleep(self._look_s)

    def _get(self, name: str) -> dict[str, Any] | None:
        return self._patiently(
            lambda: self._api.get_namespaced_custom_object(_GROUP, _VERSION, self._namespace, _PLURAL, name)
        )

    def _create(self, job: Mapping[str, Any]) -> None:
        self._patiently(
            lambda: self._api.create_namespaced_custom_object(_GROUP, _VERSION, self._namespace, _PLURAL, job)
        )

    def _patiently(self, call: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """The call's result; None when there is no such thing, or (when creating) when it is there already."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                with _translated():
                    return call()
            except NotFound:
                return None
            except WorkersUnavailable:
                if time.monotonic() + self._look_s > deadline:
                    raise
                time.sleep(self._look_s)


def copy_of(template: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The same job under another name, and not suspended."""
    metadata = template["metadata"]
    return {
        "apiVersion": f"{_GROUP}/{_VERSION}",
        "kind": "RayJob",
        "metadata": {
            "name": name,
            "labels": {**(metadata.get("labels") or {}), "app.kubernetes.io/instance": name},
        },
        "spec": {**template["spec"], "suspend": False},
    }


@contextmanager
def in_cluster(namespace: str) -> Iterator[RayJobs]:
    """By the service account of this pod. Raises ConfigurationError outside of one."""
    from kubernetes import client, config

    try:
        config.load_incluster_config()
    except config.ConfigException as error:
        raise ConfigurationError(f"This is no pod of a Kubernetes cluster ({error}).") from error
    with client.ApiClient() as connection:
        yield RayJobs(client.CustomObjectsApi(connection), namespace)


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the client as ours."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        if error.status in (404, 409):
            raise NotFound(str(error.reason)) from error
        if error.status is None or error.status == 429 or error.status >= 500:
            raise WorkersUnavailable(f"The Kubernetes API server: {error.status} {error.reason}") from error
        raise ConfigurationError(f"Kubernetes refuses it ({error.status}): {_message(error)}") from error
    except HTTPError as error:
        raise WorkersUnavailable(f"The Kubernetes API server does not answer: {error}") from error


def _message(error: Any) -> str:
    """What the API server says about it."""
    import json

    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)
