"""`anchorage guard`: keeps nodes from being taken away while a model loads, and from being kept when it has."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from serving.cli_cluster import DEFAULT_NAMESPACE, Context, Kubeconfig, Namespace, namespace_name

Host = Annotated[str, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")]


def register(app: typer.Typer) -> None:
    app.command()(guard)


def guard(
    namespace: Namespace = DEFAULT_NAMESPACE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    host: Host = "0.0.0.0",
    port: Port = 8080,
) -> None:
    """Watch the GPU pods of a deployment; runs in its namespace (component `guard`).

    A pod whose model loads is kept from node autoscalers by annotations; they are taken away when it serves. Tells what
    a cold LLM waits for (`/llm`) and what starts take (`/metrics`). Rights: get, list, watch and patch pods; get and
    list events.
    """
    from serving.cluster.guard_http import serving
    from serving.cluster.guard_watch import Guard
    from serving.cluster.kubeconfig import connect

    watching = Guard(connect(kubeconfig, context, patience_s=10.0), namespace_name(namespace), _say)

    def stop(*_: object) -> None:
        # The watch may be silent for minutes; nothing is lost with it.
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with serving(watching, host, port) as listening:
        _say(f"Watching namespace {namespace}, listening on {host}:{listening}.")
        watching.run()


def _say(text: str) -> None:
    sys.stderr.write(f"anchorage guard: {text}\n")
    sys.stderr.flush()
