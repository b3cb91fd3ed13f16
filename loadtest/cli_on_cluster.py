"""`anchorage loadtest run --on-cluster`: the same load from pods of the deployment's cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from loadtest.cluster_look import Looking
    from loadtest.running import LevelRunner

OnCluster = Annotated[
    bool,
    typer.Option("--on-cluster", help="From pods of the cluster: the URL is one that they reach, http://anchorage."),
]
Image = Annotated[
    str, typer.Option("--image", help="With --on-cluster. Default: the image of the deployment's Api.", show_default="")
]
Keep = Annotated[bool, typer.Option("--keep", help="With --on-cluster: leave the Jobs there, for a day.")]
WithCluster = Annotated[
    bool, typer.Option("--cluster", help="Watch replicas and GPU nodes on the cluster while the load is on.")
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Of the deployment on the cluster.")]
Context = Annotated[str | None, typer.Option("--context", help="Of the kubeconfig.")]
Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", envvar="KUBECONFIG", help="Default: ~/.kube/config.", show_default=False)
]


def runner(
    namespace: str,
    kubeconfig: str | None,
    context: str | None,
    *,
    workers: int = 2,
    image: str = "",
    api_key: str = "",
    keep: bool = False,
    on_state: Callable[[str], None] = lambda state: None,
) -> LevelRunner:
    """Makes levels (`ClusterRuns.run`). Raises ConfigurationError (no kubeconfig), ClusterUnavailable."""
    from loadtest.cluster_job import ClusterRuns
    from serving.cluster.kubeconfig import connect

    cluster = connect(kubeconfig, context)
    cluster.get("/version", patience_s=5.0)
    return ClusterRuns(cluster, namespace, workers, image, api_key, keep, on_state=on_state).run


def looking(
    url: str,
    *,
    cluster: bool,
    namespace: str = "anchorage",
    kubeconfig: str | None = None,
    context: str | None = None,
    api_key: str = "",
) -> Looking:
    """How the serving side is looked at: the cluster, or else what the server at `url` says of itself.

    Raises ConfigurationError (no kubeconfig).
    """
    from loadtest.cluster_look import of_cluster, of_server
    from serving.cluster.kubeconfig import connect

    if not cluster:
        return of_server(url, api_key)
    # A look that is late is a look that is missing: not repeated for long.
    return of_cluster(connect(kubeconfig, context, patience_s=2.0, read_s=10.0), namespace)
