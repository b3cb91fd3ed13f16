"""Everything that a simulated cluster is made of, with the defaults of the real parts and where they come from."""

from __future__ import annotations

import random
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from serving.settings import OnCold, ScalingSettings

Policy = Literal["anchorage", "serve", "known"]


class Span(NamedTuple):
    """Seconds, drawn evenly between two."""

    least: float
    most: float

    def draw(self, random_: random.Random) -> float:
        return self.least if self.least == self.most else random_.uniform(self.least, self.most)


def _span(value: Any) -> Span:
    """`90`, `60-90`, a number, or a Span."""
    if isinstance(value, str):
        first, dash, last = value.partition("-")
        try:
            value = Span(float(first), float(last if dash else first))
        except ValueError:
            raise ValueError("a delay is seconds, as 90 or 60-90") from None
    span = Span(*value) if isinstance(value, tuple | list) else Span(value, value)
    if not 0 <= span.least <= span.most < 1e9:
        raise ValueError("a delay is from 0, and the smaller one goes first")
    return span


def _written(span: Span) -> str:
    return f"{span.least:g}" if span.least == span.most else f"{span.least:g}-{span.most:g}"


Delay = Annotated[Span, BeforeValidator(_span), PlainSerializer(_written)]


def _none(value: Any) -> Any:
    return None if value == "none" else value


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EngineRates(_Group):
    """One replica's engine with continuous batching: prompts one after the other, answers all at a time.

    While a prompt is worked on, a step carries `chunk` tokens of it, too (chunked prefill), and takes longer by them.
    """

    prefill_tokens_s: Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_none)] = Field(
        20_000.0, description="Prompt tokens a second; --model and --gpu compute it. none: prompts are no work."
    )
    step_s: float = Field(0.012, gt=0, description="Seconds of a step, a token for each answer; --model and --gpu.")
    step_each_s: float = Field(0.0001, ge=0, description="Seconds more for each answer in it; --model and --gpu.")
    sequences: int = Field(128, ge=1, description="Answers at a time (max_num_seqs); --model and --gpu.")
    chunk: int = Field(2048, ge=1, description="Tokens of a prompt that a step carries (max_num_batched_tokens).")
    first_s: float = Field(0.0, ge=0, description="Time to first token where prompts are no work.")


class ServeRule(_Group):
    """Ray Serve's own rule with its defaults (Ray 2.60, `AutoscalingConfig` in serve/config.py)."""

    target_ongoing_requests: float = Field(2.0, gt=0, description="Requests a replica is to have (Serve's default).")
    look_back_period_s: float = Field(30.0, gt=0, description="Load is averaged over it (Serve's default).")
    metrics_interval_s: float = Field(10.0, gt=0, description="How often it is reported (Serve's default).")
    upscale_delay_s: float = Field(30.0, ge=0, description="So long it must be too much (Serve's default).")
    downscale_delay_s: float = Field(600.0, ge=0, description="So long it must be too little (Serve's default).")
    downscale_to_zero_delay_s: Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(_none)] = Field(
        None, description="The same for the last replica. none: as for the others (Serve's default)."
    )
    upscaling_factor: float = Field(1.0, gt=0, description="Part of the difference that is added (Serve's default).")
    downscaling_factor: float = Field(1.0, gt=0, description="Part of the difference that is taken (Serve's default).")


class Nodes(_Group):
    """Ray's autoscaler v2, and what gives it machines. `given`: from asked for to Ray node, of the first machines."""

    gpus: int = Field(1, ge=1, description="GPUs of a machine.")
    most: int = Field(8, ge=1, description="Machines at most (maxReplicas of the worker group).")
    reconcile_s: float = Field(
        5.0, ge=0.01, description="How often Ray's autoscaler looks (AUTOSCALER_UPDATE_INTERVAL_S, Ray 2.60)."
    )
    upscaling_speed: float = Field(
        1000.0,
        ge=0,
        description="Machines more at each look for each that runs (KubeRay's Default mode: 1000; Ray's default: 1).",
    )
    launches: int = Field(10, ge=1, description="Asked for at a time (AUTOSCALER_MAX_CONCURRENT_LAUNCHES, Ray 2.60).")
    idle_s: float = Field(60.0, ge=0, description="An empty Ray node goes after it (idleTimeoutSeconds of KubeRay).")
    machine: Delay = Field(
        Span(60, 90),
        description="Until a machine is there: Karpenter 60-90, Cluster Autoscaler 300-600 (a vendor's figures).",
    )
    image: Delay = Field(Span(240, 360), description="Until its image is: 15 to 20 GB pulled plainly (AWS, on SOCI).")
    pod: Delay = Field(Span(5, 5), description="From container to Ray node.")
    leave: Delay = Field(
        Span(1, 1), description="From let go to gone from Ray: 13 s in all with an idle_s of 12, on a laptop."
    )
    keep_s: float = Field(
        120.0, ge=0, description="The empty machine stays and can be taken again (consolidateAfter of the NodePool)."
    )
    given: tuple[float, ...] = ()


class Setup(_Group):
    """One simulated service.

    `phase`: where in their intervals periodic things are at the beginning, 0 to 1; drawn where not given. `schedule`:
    (time, replicas) of the policy `known`. `starts`: from a free GPU to serving, of the first replicas.
    """

    policy: Policy = "anchorage"
    on_cold: OnCold = Field("extractive", description="llm.on_cold; --on-cold.")
    min_replicas: int = Field(0, ge=0, description="llm.min_replicas.")
    max_replicas: int = Field(4, ge=1, description="llm.max_replicas.")
    gpus: int = Field(1, ge=1, description="GPUs of a replica (tensor_parallel_size); --model and --gpu.")
    max_ongoing: int = Field(256, ge=1, description="llm.max_ongoing_requests.")
    deadline_s: float = Field(300.0, gt=0, description="api.deadline_s.")
    drain_s: float = Field(310.0, ge=0, description="A stopped replica may finish for so long (api.deadline_s + 10).")
    scaling: ScalingSettings = ScalingSettings()
    serve: ServeRule = ServeRule()
    engine: EngineRates = EngineRates()
    nodes: Nodes = Nodes()
    process: Delay = Field(Span(39, 39), description="A replica's process: Ray and node, an 8B on H100 (Anyscale).")
    weights: Delay = Field(Span(59, 59), description="Its weights and compiling: 98 s in all, 8B from S3 (Anyscale).")
    api_s: float = Field(0.05, ge=0, description="Retrieval and prompt, before the engine is asked.")
    extract_s: float = Field(0.02, ge=0, description="An extractive answer.")
    tick_s: float = Field(0.1, ge=0.001, description="How often Serve decides (RAY_SERVE_CONTROL_LOOP_INTERVAL_S).")
    usd_gpu_hour: float = Field(1.0, ge=0, description="Of one GPU; --model and --gpu take the plan's assumption.")
    seed: int = 0
    phase: float | None = None
    starts: tuple[float, ...] = ()
    schedule: tuple[tuple[float, int], ...] = Field((), repr=False, exclude=True)

    @model_validator(mode="after")
    def _possible(self) -> Setup:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is more than max_replicas {self.max_replicas}")
        if self.gpus > self.nodes.gpus:
            raise ValueError(
                f"a replica of {self.gpus} GPUs fits no machine of {self.nodes.gpus}: --set nodes.gpus={self.gpus}"
            )
        return self

    @property
    def longest_start_s(self) -> float:
        """From a decision at zero to a replica that serves, at most."""
        nodes = self.nodes
        rules = self.tick_s + nodes.reconcile_s
        return rules + nodes.machine.most + nodes.image.most + nodes.pod.most + self.process.most + self.weights.most
