"""What is rehearsed: the load, the nodes, the engine, and the settings that the application gets."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from serving.deployments.names import ENGINE_VARIABLE
from serving.errors import ConfigurationError
from serving.settings import (
    ApiSettings,
    EmbedderSettings,
    IndexSettings,
    IngestionSettings,
    LlmSettings,
    RetrievalSettings,
    ScalingSettings,
    Settings,
    TelemetrySettings,
)

Policy: TypeAlias = Literal["anchorage", "default"]

MODEL = "scripted"
COLLECTION = "default"
QUESTION = "When do spring tides come?"
DOCUMENTS = {
    "tides.md": "# Tides\n\nSpring tides come about twice a month, when the sun and the moon pull along one line.\n",
    "mooring.md": "# Mooring\n\nA boat on a mooring buoy needs a bridle of two lines.\n",
}
#: Logical CPUs of a node of the CPU plane. Ray starts a process for each at once, whether it is needed or not.
NODE_CPUS = 2
#: Nodes that may be asked for at once, for each that runs: KubeRay's `upscalingMode: Default`.
UPSCALING_SPEED = 1000.0

_ENGINE = "serving.deployments.scripted.ScriptedEngine"
_SCRIPT_VARIABLE = "ANCHORAGE_SCRIPT"
#: Words that the engine has: more than anybody asks for.
_NEVER_BY_ITSELF = 1_000_000
#: A cluster's delays are minutes; who watches has less time. What the environment says goes before these.
_SCALING: dict[str, float] = {"llm_requests": 8.0, "down_delay_s": 8.0, "to_zero_delay_s": 5.0}
#: Serve's own rule, as it is when nothing is configured (Ray 2.60, serve/config.py): but for the delay before replicas
#: go, which is 600 s there.
_DEFAULTS = {"look_back_period_s": 30.0, "upscale_delay_s": 30.0, "upscaling_factor": 1.0, "downscaling_factor": 1.0}
_DEFAULT_PUSH_S = 10.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """All times in seconds.

    A burst of `rate` questions a second for `seconds`, answered in `tokens` tokens, `token_s` apart; or, where
    `streams` is given, `total` answers of which so many are always under way.
    """

    nodes: int = 3
    gpus_per_node: int = 1
    rate: float = 4.0
    seconds: float = 45.0
    streams: int = 0
    total: int = 0
    tokens: int = 120
    token_s: float = 0.05
    first_token_s: float = 0.1
    start_s: float = 5.0
    node_delay_s: float = 5.0
    reconcile_s: int = 5
    idle_s: float = 10.0
    kill: bool = False
    rolling_update: bool = False
    policy: Policy = "anchorage"

    def check(self) -> Scenario:
        """Raises ConfigurationError for a scenario that cannot show anything."""
        if bool(self.streams) != bool(self.total) or self.total < self.streams:
            raise ConfigurationError("--streams N goes with --total M: M answers, N of them at a time, M at least N.")
        return self

    @property
    def two_planes(self) -> bool:
        """Whether the CPU plane is two nodes, one of which can be updated while the other answers."""
        return self.rolling_update


def quick(scenario: Scenario) -> Scenario:
    """As short as it can be and still be one."""
    return replace(scenario, nodes=2, seconds=20.0, tokens=80, start_s=1.0, node_delay_s=1.0, reconcile_s=1, idle_s=4.0)


def settings_of(scenario: Scenario, scaling: ScalingSettings, index: IndexSettings, port: int) -> Settings:
    """The application's. `scaling` is as the environment has it. Nothing else of the environment is used, so that no
    store but our own is touched."""
    unsaid = {name: value for name, value in _SCALING.items() if name not in scaling.model_fields_set}
    replicas = 2 if scenario.two_planes else 1
    return Settings(
        api=ApiSettings(port=port, replicas=replicas, max_replicas=replicas, cpus=0.5),
        index=index,
        embedder=EmbedderSettings(replicas=replicas, max_replicas=replicas, cpus=0.5),
        retrieval=RetrievalSettings(),
        llm=_llm(scenario),
        scaling=scaling.model_copy(update={**unsaid, "cpu_plane": True}),
        ingestion=IngestionSettings(),
        telemetry=TelemetrySettings(log_level="WARNING"),
    )


def _llm(scenario: Scenario) -> LlmSettings:
    script = {
        "start_s": scenario.start_s,
        "first_s": scenario.first_token_s,
        "gap_s": scenario.token_s,
        "tokens": _NEVER_BY_ITSELF,
    }
    return LlmSettings(
        model=MODEL,
        device="gpu",
        min_replicas=0,
        max_replicas=scenario.nodes * scenario.gpus_per_node,
        on_cold="extractive",
        cold_start_s=30.0,
        env={ENGINE_VARIABLE: _ENGINE, _SCRIPT_VARIABLE: json.dumps(script)},
    )


def autoscaling_of(scenario: Scenario, settings: Settings) -> dict[str, Any] | None:
    """`autoscaling_config` of the Llm where Serve's own rule is rehearsed; None: the application's."""
    if scenario.policy == "anchorage":
        return None
    return {
        "min_replicas": settings.llm.min_replicas,
        "max_replicas": settings.llm.max_replicas,
        "target_ongoing_requests": settings.scaling.llm_requests,
        "metrics_interval_s": _DEFAULT_PUSH_S,
        "downscale_delay_s": settings.scaling.down_delay_s,
        "downscale_to_zero_delay_s": settings.scaling.to_zero_delay_s,
        **_DEFAULTS,
    }
