"""`anchorage status`: what runs, what is ready, and what can be asked."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serving.cli_cluster import DEFAULT_NAMESPACE, Context, Kubeconfig
from serving.cli_next import data_dir_option, program
from serving.cli_options import ApiKey, AsJson, DataDir, Url, read_settings, server_url
from serving.cli_status_cluster import cluster_status
from serving.client import Client, Refused, ServerUnreachable
from serving.errors import CatalogUnavailable, ConfigurationError
from serving.running import DEFAULT_DATA_DIR, running_server
from serving.stack import running_milvus, with_catalog

OnCluster = Annotated[bool, typer.Option("--cluster", help="Of a deployment on Kubernetes.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace of the deployment. Default: anchorage.")
]


def register(app: typer.Typer) -> None:
    app.command()(status)


def status(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    cluster: OnCluster = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Say what runs: Milvus, the server and its parts, and the collections. Exit code 0 when ready, 1 when not.

    With --cluster (or --namespace, or --context): a deployment on Kubernetes, its pods, replicas and GPU nodes, and
    what it waits for and since when.
    """
    if cluster or namespace or context:
        cluster_status(namespace or DEFAULT_NAMESPACE, kubeconfig, context, as_json)
    found = asyncio.run(_gather(data_dir.expanduser().resolve(), url, api_key))
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        _show(found)
    raise typer.Exit(0 if found["ready"] else 1)


async def _gather(data_dir: Path, url: str | None, api_key: str | None) -> dict[str, Any]:
    server, (collections, uploads) = await asyncio.gather(_server(data_dir, url, api_key), _catalog(data_dir))
    milvus = running_milvus(data_dir)
    return {
        "ready": server["ready"],
        "data_dir": str(data_dir),
        "server": server,
        "milvus": {"uri": milvus.uri, "pid": milvus.server.pid} if milvus else None,
        "collections": collections,
        "uploads": uploads,
    }


async def _server(data_dir: Path, url: str | None, api_key: str | None) -> dict[str, Any]:
    """`parts` as /readyz has them; `reason` says why there are none."""
    try:
        address = server_url(data_dir, url)
        said = await Client(address, api_key).readiness()
    except (ConfigurationError, ServerUnreachable, Refused) as error:
        return {"ready": False, "url": url, "pid": None, "parts": {}, "reason": str(error)}
    state = running_server(data_dir) if url is None else None
    return {
        "ready": said.get("ready") is True,
        "url": address,
        "pid": state.server.pid if state else None,
        "parts": said.get("parts", {}),
    }


async def _catalog(data_dir: Path) -> tuple[list[dict[str, Any]] | None, dict[str, Any]]:
    """Collections, and what waits of uploads and deletions over HTTP; so also without a server.

    Empty where there is no catalog yet; None for the collections if it does not answer.
    """
    idle = {"waiting": 0, "oldest_s": 0.0}
    settings = with_catalog(read_settings(), data_dir)
    local = "catalog_url" not in read_settings().index.model_fields_set
    if local and not (data_dir / "catalog.db").exists():
        return [], idle
    from serving.index.catalog import Catalog

    catalog = Catalog.connect(settings.index)
    try:
        collections = [asdict(collection) for collection in await catalog.collections()]
        waiting, oldest = await catalog.operations.backlog()
        uploads = {"waiting": waiting, "oldest_s": round(max(0.0, time.time() - oldest), 1)} if waiting else idle
        return collections, uploads
    except CatalogUnavailable:
        return None, idle
    finally:
        await catalog.close()


def _show(found: Mapping[str, Any]) -> None:
    out = Console(highlight=False, soft_wrap=True)
    server, milvus = found["server"], found["milvus"]
    where = f"{server['url']}  [dim]process {server['pid']}[/]" if server["pid"] else server["url"]
    out.print(f"[bold]server[/]   {where if server['parts'] else escape(server.get('reason', ''))}")
    for name, part in server["parts"].items():
        mark = "[green]✓[/]" if part["ready"] else "[red]✗[/]"
        out.print(f"  {mark} {name:<9} {'ready' if part['ready'] else escape(part.get('reason') or '')}")
    if milvus:
        out.print(f"[bold]milvus[/]   {milvus['uri']}  [dim]process {milvus['pid']}, embedded[/]")
    out.print(f"[bold]data[/]     {found['data_dir']}")
    if found["uploads"]["waiting"]:
        uploads = found["uploads"]
        out.print(f"[bold]uploads[/]  {uploads['waiting']} waiting, the oldest for {uploads['oldest_s']:.0f} s")
    if found["collections"] is None:
        out.print("[red]the catalog does not answer[/]")
        return
    if not found["collections"]:
        out.print(f"[dim]no collection yet: {program()} ingest FOLDER{data_dir_option(Path(found['data_dir']))}[/]")
        return
    table = Table("collection", "documents", "chunks", "generation", box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for collection in found["collections"]:
        table.add_row(*(str(collection[name]) for name in ("name", "documents", "chunks", "generation")))
    out.print()
    out.print(table)
