"""The parts of the deployments that need no Ray: settings of the builder, batching, merged metrics, stages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from ray.serve.schema import ServeDeploySchema

from serving.deployments import build
from serving.deployments.batches import Batches
from serving.deployments.builder import read_settings
from serving.deployments.exposition import merge
from serving.deployments.watch import stage_of
from serving.errors import ConfigurationError, EmbedderUnavailable
from serving.index.types import Vectors

CONFIG = Path(__file__).parents[2] / "manifests" / "base" / "serving" / "serve.yaml"


def test_the_serve_config_is_what_serve_deploy_takes() -> None:
    """Serve's own schema accepts the file, every key is known to it, and its arguments build an application."""
    text = yaml.safe_load(CONFIG.read_text())
    schema = ServeDeploySchema.model_validate(text)
    assert set(text) <= set(ServeDeploySchema.model_fields)
    (application,) = schema.applications
    assert set(text["applications"][0]) <= set(type(application).model_fields)
    assert application.import_path == "serving.deployments:build"
    assert build(application.args)._bound_deployment.name == "Api"


def test_arguments_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested and dotted arguments, over variables, which hold where they are silent."""
    monkeypatch.setenv("ANCHORAGE_API__REPLICAS", "3")
    monkeypatch.setenv("ANCHORAGE_API__MAX_QUEUED", "7")
    settings = read_settings({"api": {"replicas": 2}, "llm.model": "some/model", "llm.min_replicas": "0"})
    assert (settings.api.replicas, settings.api.max_queued) == (2, 7)
    assert (settings.llm.model, settings.llm.min_replicas) == ("some/model", 0)


@pytest.mark.parametrize("args", [{"llm.modell": "x"}, {"api": {"replicas": 0}}, {"nothing": 1}, {"api": 5}])
def test_arguments_that_are_no_settings_are_named(args: dict[str, object]) -> None:
    """A typing error stops the deployment with the name of the argument."""
    with pytest.raises(ConfigurationError, match=next(iter(args)).split(".")[0]):
        build(args)


class Recorder:
    """An embedder that remembers its passes and can be held up."""

    def __init__(self) -> None:
        self.passes: list[list[str]] = []
        self.bulk: list[list[str]] = []
        self.go = asyncio.Event()

    async def embed(self, texts: Sequence[str], *, bulk: bool = False) -> Vectors:
        (self.bulk if bulk else self.passes).append(list(texts))
        await self.go.wait()
        if "bad" in texts:
            raise EmbedderUnavailable("bad text")
        return np.array([[float(len(text))] for text in texts], dtype=np.float32).reshape(len(texts), 1)


async def test_queries_that_come_during_a_pass_share_the_next_one() -> None:
    """The first goes at once; those after it go together, and each gets its own vectors."""
    model = Recorder()
    batches = Batches(model, size=8, wait_s=0.0)
    tasks = [asyncio.create_task(batches.embed([text])) for text in ("a", "bb", "ccc")]
    await asyncio.sleep(0)
    late = asyncio.create_task(batches.embed(["dddd", "eeeee"]))
    while not model.passes:  # noqa: ASYNC110 - the pass starts within a turn of the loop
        await asyncio.sleep(0)
    model.go.set()
    assert [float((await task)[0, 0]) for task in tasks] == [1.0, 2.0, 3.0]
    assert (await late).tolist() == [[4.0], [5.0]]
    assert len(model.passes) <= 2


async def test_a_long_request_is_bulk_work() -> None:
    """The model is told so, and a query that comes meanwhile goes to it at once."""
    model = Recorder()
    batches = Batches(model, size=2, wait_s=0.0)
    long = asyncio.create_task(batches.embed(["a", "bb", "ccc", "dddd", "eeeee"]))
    query = asyncio.create_task(batches.embed(["query"]))
    while not (model.passes and model.bulk):  # noqa: ASYNC110 - both are passed on within a turn of the loop
        await asyncio.sleep(0)
    assert not long.done()
    model.go.set()
    assert (await long)[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert (await query).tolist() == [[5.0]]
    assert (model.bulk, model.passes) == ([["a", "bb", "ccc", "dddd", "eeeee"]], [["query"]])
    assert "anchorage_embedder_bulk_texts_total 5\n" in batches.metrics()
    assert (await batches.embed([])).shape == (0, 1)


async def test_a_failed_pass_fails_its_callers_only() -> None:
    """The next query is embedded as if nothing had happened."""
    model = Recorder()
    model.go.set()
    batches = Batches(model, size=4, wait_s=0.0)
    with pytest.raises(EmbedderUnavailable):
        await batches.embed(["bad"])
    assert (await batches.embed(["good"])).tolist() == [[4.0]]


def test_metrics_of_all_replicas_are_one_valid_page() -> None:
    """Each family once, each sample with its replica, and a parser agrees."""
    one = '# HELP x_total X.\n# TYPE x_total counter\nx_total{a="b c"} 1.0\n# HELP y Y.\n# TYPE y gauge\ny 2.0\n'
    page = merge([("r1", one), ("r2", one)])
    assert page.count("# TYPE x_total counter") == 1
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    assert sorted((sample.name, sample.labels["replica"], sample.value) for sample in samples) == [
        ("x_total", "r1", 1.0),
        ("x_total", "r2", 1.0),
        ("y", "r1", 2.0),
        ("y", "r2", 2.0),
    ]


@pytest.mark.parametrize(
    ("replicas", "stage"),
    [
        ([], "asleep"),
        ([{"state": "STOPPING", "node_id": "n"}], "asleep"),
        ([{"state": "STARTING", "node_id": None}], "node"),
        ([{"state": "STARTING", "node_id": "n"}], "weights"),
        ([{"state": "STARTING", "node_id": None}, {"state": "RUNNING", "node_id": "n"}], "ready"),
        ([{"state": "STARTING", "node_id": None}, {"state": "PENDING_MIGRATION", "node_id": "n"}], "ready"),
        ([{"state": "RECOVERING", "node_id": "n"}], "weights"),
    ],
)
def test_the_stage_of_a_deployment(replicas: list[dict[str, object]], stage: str) -> None:
    """From Serve's replica states to the words that a waiting caller reads; on a node that drains one still serves."""
    assert stage_of(replicas) == stage


@pytest.mark.parametrize(("state", "stage"), [("RECOVERING", "ready"), ("STARTING", "weights")])
def test_a_new_controller_makes_nobody_cold(state: str, stage: str) -> None:
    """It asks the replicas that it finds; one that served goes on with it, one that begins anew does not."""
    assert stage_of([{"state": state, "node_id": "n"}], "ready") == stage
