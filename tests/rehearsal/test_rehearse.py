"""`anchorage rehearse` as a reader runs it: one short rehearsal in which a GPU node is killed, and its JSON."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.running_stack import Done, anchorage, marked

LIMIT_S = 400.0
OURS = uuid.uuid4().hex


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """One run for the whole file, with a picture."""
    folder = tmp_path_factory.mktemp("rehearsal")
    picture = folder / "picture.svg"
    options = ("--quick", "--kill", "--json", "--plot", str(picture), "--logs", str(folder / "logs"))
    return await anchorage("rehearse", *options, timeout_s=LIMIT_S, E2E_STACK=OURS)


@pytest.fixture(scope="module")
def said(done: Done) -> dict[str, Any]:
    """What it printed for scripts."""
    found: dict[str, Any] = json.loads(done.out)
    return found


def levels(said: dict[str, Any], kind: str) -> list[int]:
    return [event["value"] for event in said["events"] if event["kind"] == kind]


def test_nothing_fails_and_nothing_is_cut(done: Done, said: dict[str, Any]) -> None:
    """Although a GPU node dies under the burst, every request is answered whole: with the passages' own sentences, with
    all words of the engine in their order, or, where the caller wanted that, with a refusal."""
    assert done.code == 0, done.err
    requests = said["requests"]
    assert (requests["failed"], requests["cut"], said["problems"]) == (0, 0, [])
    assert requests["total"] == requests["llm"] + requests["extractive"] + requests["rejected"] > 0
    assert levels(said, "node_killed")


def test_gpu_nodes_come_with_the_questions_and_go(said: dict[str, Any]) -> None:
    """None before the burst, more than one in it, none in the end; so do the replicas."""
    for kind in ("nodes_wanted", "nodes_up", "replicas_wanted", "replicas_ready"):
        seen = levels(said, kind)
        assert seen[0] == 1
        assert max(seen) >= 2
        assert seen[-1] == 0
        assert min(event["t_s"] for event in said["events"] if event["kind"] == kind) > 0
    assert said["leftover"] == {"nodes": 0, "replicas": 0}


def test_cold_callers_get_what_they_want(said: dict[str, Any]) -> None:
    """Until a replica serves: extractive answers at once, progress and then the answer, or a refusal with a time."""
    ready = next(event["t_s"] for event in said["events"] if event["kind"] == "replicas_ready")
    # Whoever asks in the last second may be answered by the replica that Serve has just made ready.
    cold = [row for row in said["requests"]["rows"] if row["t_s"] < ready - 1]
    of = {wanted: [row for row in cold if row["on_cold"] == wanted] for wanted in ("extractive", "wait", "reject")}
    assert {row["outcome"] for row in of["extractive"]} == {"extractive"}
    assert {row["outcome"] for row in of["reject"]} == {"rejected"}
    assert {row["outcome"] for row in of["wait"]} == {"llm"}
    assert all(row["retry_after_s"] >= 1 for row in of["reject"])
    assert all(row["ttft_s"] > ready - row["t_s"] - 1 for row in of["wait"])
    assert {"node", "weights"} <= {stage for row in of["wait"] for stage in row["stages"]}


def test_each_step_comes_after_the_one_before(said: dict[str, Any]) -> None:
    """A replica is wanted, so a node is asked for, comes, its replica serves, and its first token is read."""
    steps = list(said["reaction_s"].values())
    assert steps == sorted(steps)
    assert all(step >= 0 for step in steps)
    settings, delays = said["settings"], said["delays"]
    assert min(delays["node_s"]) >= settings["node_delay_s"]
    assert min(delays["replica_start_s"]) >= settings["engine"]["start_s"]
    # Ray counts from when the replica's process gave its GPU back, which is before Serve says that it is gone.
    assert min(delays["release_s"]) >= settings["autoscaler"]["idle_timeout_s"] - 1


def test_a_picture_is_drawn(done: Done, said: dict[str, Any]) -> None:
    """`--plot` writes the file that it was told."""
    picture = Path(said["command"].split("--plot ")[1].split()[0])
    assert picture.read_text().rstrip().endswith("</svg>")


def test_no_process_stays(done: Done) -> None:
    """Ray's, the fake nodes', Milvus Lite's: all are gone when the command returns."""
    assert done.code == 0
    assert marked(OURS) == []


async def test_a_scenario_that_shows_nothing_is_refused() -> None:
    """A wrong command line is told before anything is started."""
    refused = await anchorage("rehearse", "--streams", "4")
    assert refused.code == 1
    assert "--streams N goes with --total M" in refused.err
