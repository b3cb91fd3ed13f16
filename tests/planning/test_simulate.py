"""`anchorage simulate` through the front door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serving.cli import build
from serving.errors import ConfigurationError
from serving.planning.outcome import LLM, NAMES, Outcome
from serving.planning.setup import Setup
from serving.planning.simulation import simulate
from serving.planning.trace import Recipe, make_trace
from tests.planning.published import LLAMA_8B

_SHORT = ("--duration", "10m", "--rate", "0.5", "--set", "nodes.image=10-20", "--set", "tick_s=1")


def run(*words: str) -> str:
    """What it prints; raises what it would report."""
    done = CliRunner().invoke(build(), ["simulate", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def told(*words: str) -> Any:
    return json.loads(run("--json", *words))


def test_the_same_seed_gives_the_same_result() -> None:
    """To the last digit, and another seed another."""
    assert told(*_SHORT) == told(*_SHORT)
    assert told(*_SHORT)["results"] != told(*_SHORT, "--seed", "1")["results"]


def test_results_keep_what_made_them() -> None:
    """Settings, seed, versions, and when what changed."""
    found = told(*_SHORT, "--set", "scaling.up_delay_s=1.5", "--seed", "9")
    assert found["setup"]["seed"] == 9
    assert found["setup"]["scaling"]["up_delay_s"] == 1.5
    assert found["setup"]["nodes"]["image"] == "10-20"
    assert set(found["results"]) == {"anchorage", "serve", "known"}
    assert found["versions"]["anchorage"]
    assert found["results"]["known"]["against_known"] == 1.0
    assert next(change[2] for change in found["changes"]["anchorage"] if change[1] == "nodes_up") == 1


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_saved_trace_is_the_trace(tmp_path: Path, suffix: str) -> None:
    """What was generated, written and read again gives the same figures."""
    file = tmp_path / f"trace{suffix}"
    made = told(*_SHORT, "--trace", "daily", "--save-trace", str(file))
    assert told(*_SHORT, "--trace", str(file))["results"] == made["results"]


def test_pictures_are_drawn(tmp_path: Path) -> None:
    """An SVG that is the same each time, and a page with it."""
    pictures = [tmp_path / name for name in ("a.svg", "b.svg", "c.html")]
    for picture in pictures:
        run(*_SHORT, "--plot", str(picture))
    svg = pictures[0].read_text()
    assert svg == pictures[1].read_text()
    assert "replicas serving" in svg
    assert pictures[2].read_text().startswith("<!doctype html>")
    assert "<svg" in pictures[2].read_text()


def test_the_engine_can_be_that_of_a_plan(tmp_path: Path) -> None:
    """Speed, GPUs, price and target of an 8B on an H100."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    found = told(*_SHORT, "--model", str(tmp_path), "--gpu", "H100", "--policy", "anchorage")["setup"]
    assert found["usd_gpu_hour"] == 5.0
    assert 20_000 < found["engine"]["prefill_tokens_s"] < 60_000
    assert 0.004 < found["engine"]["step_s"] < 0.01
    assert found["scaling"]["llm_requests"] != 32
    assert found["max_ongoing"] == found["engine"]["sequences"]


def test_people_get_a_table_and_a_list_of_what_can_be_set() -> None:
    """Each delay with its source."""
    table = run(*_SHORT)
    assert "GPU hours" in table
    assert "against all-knowing" in table
    knobs = told("--list")
    assert knobs["nodes.machine"]["value"] == "60-90"
    assert "Karpenter" in knobs["nodes.machine"]["about"]
    assert "serve.upscale_delay_s" in run("--list")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--trace", "mystery"), "no file, and none of: burst"),
        (("--trace", "./absent.csv"), "cannot be read"),
        (("--set", "nodes.moon=1"), "--list says"),
        (("--set", "nodes.machine=soon"), "seconds, as 90 or 60-90"),
        (("--set", "engine.step_s=0"), "engine.step_s: .*greater than 0"),
        (("--set", "min_replicas=9"), "min_replicas 9 is more than max_replicas 4"),
        (("--set", "gpus=2"), "fits no machine of 1"),
        (("--set", "what"), "NAME=VALUE"),
        (("--policy", "magic"), "there are anchorage, serve, known"),
        (("--on-cold", "shrug"), "extractive, wait, reject"),
        (("--duration", "long"), "say a number"),
        (("--model", "m"), "go together"),
        (("--plot", "picture.png"), "an .svg"),
        (("--against", "absent.json"), "cannot be read"),
    ],
)
def test_what_cannot_be_says_what_can(words: tuple[str, ...], message: str) -> None:
    """Each names the value."""
    with pytest.raises(ConfigurationError, match=message):
        run(*_SHORT, *words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t_s,prompt_tokens\n1,2\n", "line 2"),
        ("t_s,prompt_tokens,answer_tokens\n1,2,3\n-1,2,3\n", "line 3"),
        ("t_s,prompt_tokens,answer_tokens\n", "no requests"),
        ("t_s,prompt_tokens,answer_tokens\nnan,1,1\n", "line 2"),
    ],
)
def test_a_broken_trace_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    """So that it can be mended."""
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        run("--trace", str(file))


def rehearsal(outcome: Outcome, setup: Setup) -> dict[str, Any]:
    """A simulation as the JSON of a rehearsal."""
    trace = outcome.trace
    events = [{"t_s": one.t_s, "kind": one.kind, "value": one.value} for one in outcome.changes]
    rows = [
        {
            "t_s": trace.times[i],
            "prompt_tokens": trace.prompts[i],
            "answer_tokens": trace.answers[i],
            "outcome": NAMES[code],
            "done_s": outcome.done[i] - trace.times[i],
        }
        for i, code in enumerate(outcome.outcomes)
    ]
    return {
        "format": "anchorage-rehearsal/1",
        "settings": {
            "policy": "anchorage",
            "min_replicas": 0,
            "max_replicas": 3,
            "control_loop_s": 0.5,
            "on_cold": "extractive",
            "scaling": setup.scaling.model_dump(),
            "autoscaler": {
                "reconcile_s": 5,
                "idle_timeout_s": 10,
                "upscaling_speed": 1,
                "max_nodes": 3,
                "gpus_per_node": 1,
            },
            "gpus_per_replica": 1,
            "node_delay_s": 4,
            "engine": {"start_s": 3, "concurrency": None, "first_token_s": 0.1, "token_s": 0.05},
        },
        "delays": {"node_s": [4.0], "replica_start_s": [5.0]},
        "events": events,
        "requests": {"rows": rows},
    }


@pytest.fixture
def real_run() -> dict[str, Any]:
    setup = Setup.model_validate(
        {
            "max_replicas": 3,
            "scaling": {"llm_requests": 8, "down_delay_s": 8, "to_zero_delay_s": 5},
            "nodes": {
                "idle_s": 10,
                "machine": "4",
                "image": "0",
                "pod": "0",
                "leave": "0",
                "keep_s": 0,
                "most": 3,
                "upscaling_speed": 1,
            },
            "engine": {
                "prefill_tokens_s": None,
                "first_s": 0.1,
                "step_s": 0.05,
                "step_each_s": 0,
                "sequences": 1000,
            },
            "process": "5",
            "weights": "0",
            "tick_s": 0.5,
            "seed": 77,
        }
    )
    trace = make_trace("steady", Recipe(rate=4, duration_s=60, answer=120, prompt=50), seed=1)
    outcome = simulate(trace, setup)
    assert outcome.outcomes.count(LLM) > 100
    return rehearsal(outcome, setup)


def test_a_run_is_compared_with_its_simulation(tmp_path: Path, real_run: dict[str, Any]) -> None:
    """A run that followed the rules to the letter is off by no more than where in its interval a controller was."""
    file = tmp_path / "run.json"
    file.write_text(json.dumps(real_run))
    found = told("--against", str(file))
    assert found["error_median"] < 0.15
    assert found["within"] >= found["compared"] - 2
    for moment in found["moments"]:
        assert moment["real_s"] is not None, moment
        assert abs(moment["real_s"] - moment["simulated_s"]) < 6, moment
    assert abs(found["outcomes"]["llm"]["real"] - found["outcomes"]["llm"]["simulated"]) < 25
    assert "off by" in run("--against", str(file))


def test_a_run_that_broke_the_rules_is_far_off(tmp_path: Path, real_run: dict[str, Any]) -> None:
    """A node that came twenty seconds after it was measured to come is seen."""
    for event in real_run["events"]:
        event["t_s"] += 20 if event["kind"] in ("nodes_up", "replicas_ready") and event["t_s"] > 0 else 0
    file = tmp_path / "run.json"
    file.write_text(json.dumps(real_run))
    late = {moment["name"]: moment for moment in told("--against", str(file))["moments"]}
    assert late["node up"]["error"] > 0.5
    assert late["replica wanted"]["real_s"] == pytest.approx(late["replica wanted"]["simulated_s"], abs=2)


def test_what_was_done_to_a_run_is_said(tmp_path: Path, real_run: dict[str, Any]) -> None:
    """A killed node is not simulated."""
    real_run["events"].append({"t_s": 30.0, "kind": "node_killed", "value": "x"})
    file = tmp_path / "run.json"
    file.write_text(json.dumps(real_run))
    assert "had a node killed" in run("--against", str(file))


@pytest.mark.parametrize("missing", ["settings", "events", "requests"])
def test_a_run_with_something_missing_says_what(tmp_path: Path, real_run: dict[str, Any], missing: str) -> None:
    """And one in another format is refused."""
    file = tmp_path / "run.json"
    del real_run[missing]
    file.write_text(json.dumps(real_run))
    with pytest.raises(ConfigurationError, match=missing):
        run("--against", str(file))
    file.write_text(json.dumps({"format": "other"}))
    with pytest.raises(ConfigurationError, match="anchorage-rehearsal/1"):
        run("--against", str(file))
