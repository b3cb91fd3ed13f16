"""The options of `anchorage rehearse`. Where one has no value, the scenario's own stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from loadtest.rehearsal.scenario import Policy, Scenario

_OWN = Scenario()


def _option(panel: str, text: str, *names: str, own: Any = None, **bounds: Any) -> Any:
    shown = text if own is None else f"{text} Default: {own:g}."
    return typer.Option(*names, help=shown, rich_help_panel=panel, **bounds)


_LOAD, _NODES, _TROUBLE, _OUTPUT = "The load", "Nodes and engine", "What goes wrong", "Output"

Burst: TypeAlias = Annotated[float | None, _option(_LOAD, "Questions a second.", "--burst", own=_OWN.rate, min=0.1)]
Seconds: TypeAlias = Annotated[float | None, _option(_LOAD, "How long the burst lasts.", own=_OWN.seconds, min=1)]
Tokens: TypeAlias = Annotated[int | None, _option(_LOAD, "Tokens of an answer.", own=_OWN.tokens, min=2)]
TokenS: TypeAlias = Annotated[float | None, _option(_LOAD, "Between two of them.", own=_OWN.token_s, min=0.001)]
Streams: TypeAlias = Annotated[
    int | None, _option(_LOAD, "Instead of a burst: answers that are always under way.", min=1)
]
Total: TypeAlias = Annotated[int | None, _option(_LOAD, "With --streams: answers in all.", min=1)]
Quick: TypeAlias = Annotated[bool, _option(_LOAD, "Everything as short as it can be.", "--quick")]

Nodes: TypeAlias = Annotated[int | None, _option(_NODES, "GPU nodes at most.", own=_OWN.nodes, min=1)]
GpusPerNode: TypeAlias = Annotated[
    int | None, _option(_NODES, "GPUs of a node; a replica takes one.", own=_OWN.gpus_per_node, min=1)
]
NodeDelayS: TypeAlias = Annotated[
    float | None, _option(_NODES, "From asking for a node to its start.", own=_OWN.node_delay_s, min=0)
]
StartS: TypeAlias = Annotated[float | None, _option(_NODES, "How long the engine loads.", own=_OWN.start_s, min=0)]
IdleS: TypeAlias = Annotated[
    float | None, _option(_NODES, "How long a node is idle before it goes.", own=_OWN.idle_s, min=1)
]
ReconcileS: TypeAlias = Annotated[
    int | None, _option(_NODES, "How often Ray's autoscaler looks.", own=_OWN.reconcile_s, min=1)
]
WhosePolicy: TypeAlias = Annotated[
    Policy | None, _option(_NODES, "Whose rule says how many replicas: ours (the default), or Serve's own.", "--policy")
]

Kill: TypeAlias = Annotated[bool | None, _option(_TROUBLE, "Kill a GPU node under load.", "--kill")]
RollingUpdate: TypeAlias = Annotated[
    bool | None, _option(_TROUBLE, "Replace every replica under load.", "--rolling-update")
]

Plot: TypeAlias = Annotated[Path | None, _option(_OUTPUT, "Draw it into this .svg, .png or .pdf file.")]
Logs: TypeAlias = Annotated[Path | None, _option(_OUTPUT, "Keep what Ray, Serve and Milvus write in this folder.")]
