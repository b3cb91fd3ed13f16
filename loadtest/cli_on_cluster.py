"""Where a load comes from, this machine or pods of the deployment's cluster, and what is watched meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from loadtest.load_options import LOAD, OUTPUT, option
from serving.cli_cluster import DEFAULT_NAMESPACE, Context, Kubeconfig, Namespace, namespace_name

if TYPE_CHECKING:
    from loadtest.cluster_look import Looking
    from loadtest.running import LevelRunner


@dataclass(frozen=True)
class Where:
    """Options of the commands."""

    workers: Annotated[
        int | None,
        option(
            LOAD,
            "Processes that ask, with a core each; default 1. With --on-cluster: pods; default 2.",
            "--workers",
            min=1,
            max=1000,
        ),
    ] = None
    on_cluster: Annotated[
        bool,
        typer.Option(
            "--on-cluster", help="From pods of the cluster: the URL is one that they reach, http://anchorage."
        ),
    ] = False
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Watch replicas and GPU nodes on the cluster while the load is on.")
    ] = False
    namespace: Namespace = DEFAULT_NAMESPACE
    context: Context = None
    kubeconfig: Kubeconfig = None
    image: Annotated[
        str,
        typer.Option(
            "--image", help="With --on-cluster. Default: the image of the deployment's Api.", show_default=False
        ),
    ] = ""
    keep: Annotated[bool, typer.Option("--keep", help="With --on-cluster: leave the Jobs there, for a day.")] = False
    gpu: Annotated[str, option(OUTPUT, "Type of the cluster's GPUs, for the cost; default: as its nodes say.")] = ""
    gpu_price: Annotated[
        float | None, option(OUTPUT, "USD for an hour of one GPU; default: the list price.", "--gpu-price", min=0)
    ] = None

    @property
    def askers(self) -> int:
        """Processes, or pods."""
        return self.workers or (2 if self.on_cluster else 1)


def runner(where: Where, *, api_key: str = "", on_state: Callable[[str], None] = lambda state: None) -> LevelRunner:
    """Makes levels. Raises ConfigurationError (no kubeconfig), ClusterUnavailable."""
    if not where.on_cluster:
        from loadtest.running import LocalRuns

        return LocalRuns(where.askers).run
    from loadtest.cluster_job import ClusterRuns
    from serving.cluster.kubeconfig import connect

    namespace = namespace_name(where.namespace)
    cluster = connect(where.kubeconfig, where.context)
    cluster.get("/version", patience_s=5.0)
    return ClusterRuns(cluster, namespace, where.askers, where.image, api_key, where.keep, on_state=on_state).run


def looking(where: Where, url: str, api_key: str = "") -> Looking:
    """How the serving side is looked at: the cluster, or else what the server at `url` says of itself.

    Raises ConfigurationError (no kubeconfig).
    """
    from loadtest.cluster_look import of_cluster, of_server
    from serving.cluster.kubeconfig import connect

    if not (where.cluster or where.on_cluster):
        return of_server(url, api_key)
    # A look that is late is a look that is missing: not repeated for long.
    cluster = connect(where.kubeconfig, where.context, patience_s=2.0, read_s=10.0)
    return of_cluster(cluster, namespace_name(where.namespace))
