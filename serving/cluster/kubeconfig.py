"""Which API server, and as whom: a kubeconfig with whatever it uses for credentials, or this pod's service account."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from serving.cluster.connection import PATIENCE_S, READ_S, Cluster
from serving.errors import ConfigurationError


def connect(
    kubeconfig: str | None = None,
    context: str | None = None,
    *,
    patience_s: float = PATIENCE_S,
    read_s: float = READ_S,
) -> Cluster:
    """By a kubeconfig (several, separated as in $KUBECONFIG), the usual one, or as this pod.

    Raises ConfigurationError: no kubeconfig, no such context, a credential plugin that failed, the extra is missing.
    """
    try:
        import yaml
        from kubernetes import client, config
    except ImportError as error:
        raise ConfigurationError(
            "This needs the Kubernetes client: pip install 'anchorage[cluster]' (the extra `cluster`)."
        ) from error
    settings = client.Configuration()
    # Repeating is ours: the client's own would repeat what must not be, and wait beyond our deadlines.
    settings.retries = False
    known = kubeconfig or context or os.path.exists(os.path.expanduser("~/.kube/config"))

    def load() -> None:
        if known:
            config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=settings)
        else:
            config.load_incluster_config(client_configuration=settings)

    try:
        with _plugin_errors():
            load()
    except config.ConfigException as error:
        if not known:
            raise ConfigurationError(
                "There is no kubeconfig (~/.kube/config, $KUBECONFIG), and this is no pod of a cluster: name one with "
                "--kubeconfig."
            ) from error
        raise ConfigurationError(f"The kubeconfig {kubeconfig or '~/.kube/config'} cannot be used: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"The kubeconfig {kubeconfig or '~/.kube/config'} cannot be read: {error}") from error

    def renew() -> None:
        with _plugin_errors():
            load()

    api = client.ApiClient(settings)
    api.user_agent = "anchorage"
    return Cluster(api, settings.host, renew=renew, patience_s=patience_s, read_s=read_s)


@contextmanager
def _plugin_errors() -> Iterator[None]:
    """The client logs that a credential plugin failed, and goes on without credentials. Raises ConfigurationError."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "root":
                said.append(record.getMessage())

    listener = Listener(logging.ERROR)
    root = logging.getLogger()
    root.addHandler(listener)
    try:
        yield
    finally:
        root.removeHandler(listener)
    if said:
        raise ConfigurationError(f"The credentials of the kubeconfig could not be had: {'; '.join(said)}")
