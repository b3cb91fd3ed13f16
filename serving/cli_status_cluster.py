"""`anchorage status --cluster`: what a deployment on Kubernetes does, and what it waits for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from serving.cli_cluster import namespace_name, since


def cluster_status(namespace: str, kubeconfig: str | None, context: str | None, as_json: bool) -> None:
    """Exit code 0 when ready, 1 when not. Raises as the API server's client."""
    from serving.cluster.kinds import Kinds
    from serving.cluster.kubeconfig import connect
    from serving.cluster.status import status

    cluster = connect(kubeconfig, context)
    cluster.get("/version", patience_s=5.0)
    found = status(cluster, Kinds(cluster), namespace_name(namespace))
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        _show(Console(highlight=False, soft_wrap=True), found)
    raise typer.Exit(0 if found["ready"] else 1)


def _show(out: Console, found: Mapping[str, Any]) -> None:
    out.print(Text.assemble((found["server"], "bold"), ", namespace ", (found["namespace"], "bold")))
    if not found["workloads"]:
        out.print("Nothing of Anchorage is deployed there.")
        return
    for each in found["workloads"]:
        mark = Text("✓ ", "green") if each["ready"] else Text("✗ ", "red")
        out.print(Text.assemble("  ", mark, each["name"]))
    _show_serving(out, found)
    out.print()
    out.print(_pods(found["pods"]))
    _show_nodes(out, found["gpu_nodes"])
    if found["waiting"]:
        out.print()
        out.print(_waiting(found["waiting"]))


def _show_serving(out: Console, found: Mapping[str, Any]) -> None:
    load, deployments = found["load"], found["deployments"]
    if not deployments and load["replicas"] is None:
        return
    out.print()
    table = Table("deployment", "replicas", "status", box=None, pad_edge=False, header_style="bold")
    counts = load["replicas"] or {}
    for name in sorted({*deployments, *(name for name, count in counts.items() if count)}):
        told = deployments.get(name, {})
        status = " ".join(filter(None, (str(told.get("status") or ""), str(told.get("message") or ""))))
        table.add_row(name, str(counts.get(name, "?")), Text(status))
    out.print(table)
    if load["replicas"] is None:
        out.print(Text(f"  {load['reason']}", "dim"))
        return
    out.print(
        f"requests: {load['requests_running']:g} running, {load['requests_queued']:g} queued, "
        f"{load['engine_running']:g} in the LLM; uploads waiting: {load['uploads_waiting']:g}"
    )


def _pods(pods: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        "pod", "group", "state", "GPUs", "node", "restarts", "age", box=None, pad_edge=False, header_style="bold"
    )
    for pod in pods:
        state = "ready" if pod["ready"] and pod["phase"] == "Running" else str(pod["phase"]).lower()
        table.add_row(
            pod["name"],
            pod["group"] or pod["component"],
            Text(state, "green" if state == "ready" else "yellow"),
            str(pod["gpus"] or ""),
            pod["node"] or "",
            str(pod["restarts"] or ""),
            since(pod["age_s"]),
        )
    return table


def _show_nodes(out: Console, nodes: Sequence[Mapping[str, Any]] | None) -> None:
    if nodes is None:
        out.print(Text("GPU nodes: you may not list nodes.", "dim"))
        return
    out.print(f"GPU nodes: {len(nodes) or 'none'}")
    for node in nodes:
        ready = "" if node["ready"] else ", not ready"
        out.print(
            Text(f"  {node['name']}: {node['used']} of {node['gpus']} GPUs in use, {since(node['age_s'])}{ready}")
        )


def _waiting(found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("waiting for", "since", "why", box=None, pad_edge=False, header_style="bold")
    for each in found:
        table.add_row(Text(each["what"], "" if each["blocks"] else "dim"), since(each["since_s"]), Text(each["reason"]))
    return table
