"""`anchorage ingest --on-cluster`: the same ingestion as a RayJob of a deployment on Kubernetes."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ingestion.options import Options
from serving.errors import CallerError

OnCluster = Annotated[
    bool,
    typer.Option("--on-cluster", help="As a job of the deployment on Kubernetes; the sources must be remote ones."),
]
Queue = Annotated[
    str | None,
    typer.Option("--queue", help="With --on-cluster: LocalQueue of Kueue that decides when it starts."),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="With --on-cluster: where the deployment is.")]
Context = Annotated[str | None, typer.Option("--context", help="With --on-cluster: context of the kubeconfig.")]
Kubeconfig = Annotated[
    str | None,
    typer.Option(
        "--kubeconfig", envvar="KUBECONFIG", help="With --on-cluster. Default: ~/.kube/config.", show_default=False
    ),
]

#: The suspended RayJob of the manifests.
TEMPLATE = "anchorage-ingest"
#: What a pod of the cluster can read as well as we can: object stores and web addresses, not files and pipes.
_REMOTE = re.compile(r"^(sitemap:|[A-Za-z][A-Za-z0-9+.-]*(::|://))")
#: How long another run on the collection is waited for, seconds: the nightly one, for example.
_WAIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Job:
    """What the command line asked for. None: the cluster's own setting."""

    sources: Sequence[str]
    include: Sequence[str]
    exclude: Sequence[str]
    collection: str | None
    options: Options
    workers: int | None
    queue: str | None


def run_on_cluster(job: Job, namespace: str, kubeconfig: str | None, context: str | None) -> int:
    """0, 1, or 130 where it was not waited for. Raises CallerError for sources on this machine, and as RayJobs."""
    from ingestion.dispatch import PATIENCE_S, Copy, RayJobs
    from serving.cluster.kubeconfig import connect

    command = entrypoint(job)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    cluster = connect(kubeconfig, context, patience_s=PATIENCE_S)
    cluster.get("/version", patience_s=5.0)
    jobs = RayJobs(cluster, namespace, look_s=2.0)
    name = f"ingest-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    jobs.start(TEMPLATE, Copy(name, command, job.queue))
    console.print(f"RayJob [bold]{name}[/] in namespace {escape(namespace)}")
    try:
        ended = jobs.follow(name, lambda state: console.print(f"  {escape(state)}"))
    except KeyboardInterrupt:
        console.print(f"It goes on by itself: kubectl get rayjob {name} --namespace {namespace} --watch")
        return 130
    if ended.succeeded:
        console.print("Done.")
        return 0
    console.print(f"[bold red]anchorage:[/] {name} failed: {escape(ended.message)}")
    console.print(f"Its report: kubectl logs --namespace {namespace} --selector batch.kubernetes.io/job-name={name}")
    return 1


def entrypoint(job: Job) -> list[str]:
    """The command of the job's driver. Raises CallerError."""
    local = [source for source in job.sources if not _REMOTE.match(source) or source.lower().startswith("file:")]
    if local:
        raise CallerError(
            f"{', '.join(local)}: the cluster cannot read what is on this machine. Put it into an object store, or "
            "upload it to the running server (POST /v1/collections/{collection}/documents)."
        )
    options = job.options
    command = ["anchorage", "ingest", *(["--retry-failed"] if options.retry_failed else []), "--distributed"]
    command += ["--ray-address", "auto", "--json", "--no-progress", "--wait", f"{options.wait_s or _WAIT_S:g}"]
    command += ["--collection", job.collection] if job.collection else []
    if options.sync is not None:
        command.append("--sync" if options.sync else "--no-sync")
    command += ["--dry-run"] if options.dry_run else []
    command += ["--workers", str(job.workers)] if job.workers else []
    for option, patterns in (("--include", job.include), ("--exclude", job.exclude)):
        for pattern in patterns:
            command += [option, pattern]
    # A source that begins with a dash is none of ours; the separator keeps it from being an option.
    return [*command, "--", *job.sources]
