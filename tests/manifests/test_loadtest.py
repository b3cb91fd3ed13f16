"""The component `loadtest`, and the copy of it that `anchorage loadtest run --on-cluster` makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest import arrivals, in_pod
from loadtest.cluster_objects import COMPONENT, Run, carried, objects, placement, walk
from serving.errors import ConfigurationError
from tests.manifests import builtin, crossing, pods, rendering
from tests.manifests.documents import Rendered
from tests.manifests.rendering import Offer
from tests.manifests.schemas import manifests

FILES = manifests("components/loadtest")
MASTER, WORKERS = FILES["job-master"], FILES["job-workers"]
NAME = "loadtest-20261122-120000-ab12"
#: That a copy of a run goes through. (Files of a run's own are not held to what holds for ours: "holds values".)
LAYERS = (builtin.faults, pods.faults, crossing.faults)


def container(job: dict[str, Any]) -> dict[str, Any]:
    (found,) = job["spec"]["template"]["spec"]["containers"]
    return dict(found)


def made(*arguments: str, **more: Any) -> list[dict[str, Any]]:
    """Objects of a run with three workers."""
    told = carried(arguments)
    return objects(Run(NAME, told.arguments, 3, "registry.test/anchorage:7", 600.0, "anchorage", told.files, **more))


def named(things: list[dict[str, Any]], kind: str, name: str = NAME) -> dict[str, Any]:
    return next(one for one in things if (one["kind"], one["metadata"]["name"]) == (kind, name))


def test_the_containers_run_what_there_is() -> None:
    """Each command is one of `loadtest.in_pod`; as many workers are waited for as there are."""
    for job in (MASTER, WORKERS):
        python, module, name, *told = container(job)["command"]
        assert (python, module, name) == ("python", "-m", "loadtest.in_pod")
        asked = in_pod._options().parse_args([*told, *container(job).get("args", [])])
        assert asked.port == FILES["service"]["spec"]["ports"][0]["port"]
        if asked.master:
            assert asked.master == FILES["service"]["metadata"]["name"]
        else:
            assert asked.workers == WORKERS["spec"]["completions"] == WORKERS["spec"]["parallelism"]
            assert asked.locust == container(MASTER)["args"]


def test_locust_knows_the_options() -> None:
    """Those of the component; one that is misspelt is refused."""
    command = [sys.executable, "-m", "loadtest.locustfile", "--list", *container(MASTER)["args"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    spec = next(one for one in container(MASTER)["args"] if one.startswith("--arrivals="))
    assert arrivals.parse(spec.partition("=")[2]).rate(300.0) > 0


def test_everything_ends() -> None:
    """A run that hangs is ended by its deadline, which is above all that it may take; nothing is made again."""
    for job in (MASTER, WORKERS):
        assert job["spec"]["activeDeadlineSeconds"] > 1800 + 1800 + 300 + 330
        assert job["spec"]["ttlSecondsAfterFinished"]
        assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert MASTER["spec"]["backoffLimit"] == 0
    # One worker that fails does not end the others: with `backoffLimit` it would.
    assert (WORKERS["spec"]["completionMode"], WORKERS["spec"]["backoffLimitPerIndex"]) == ("Indexed", 0)


@pytest.mark.parametrize("host", ["http://anchorage", "https://api.test/openai"])
def test_the_copy_of_a_run_passes_what_the_component_passes(host: str, tmp_path: Path) -> None:
    """Beside a deployment, with files and without a key: schemas, Pod Security, names, selectors, network."""
    (tmp_path / "q.jsonl").write_text('{"question": "Why?"}\n')
    things = made(f"--host={host}", "--run-time=5m", f"--questions={tmp_path}/q.jsonl")
    whole = rendering.rendered(Offer("local"))
    both = Rendered("a run", (*whole.documents, *things))
    for layer in LAYERS:
        before = layer(whole)
        assert [fault for fault in layer(both) if fault not in before] == []
    ways_out = [one for one in things if one["metadata"]["name"] == f"{NAME}-target"]
    assert [one["spec"]["egress"] for one in ways_out] == (
        [] if host == "http://anchorage" else [[{"ports": [{"protocol": "TCP", "port": 443}]}]]
    )


def test_two_runs_do_not_meet() -> None:
    """Nothing of a copy has the component's name or selects its pods, but the Secret with the Api's key."""
    things = made("--host=http://anchorage", "--run-time=60")
    for thing in things:
        names = {value for path, value in rendering.leaves(thing) if isinstance(value, str) and COMPONENT in value}
        assert names <= {COMPONENT}
        where = {path[-2] for path, value in rendering.leaves(thing) if value == COMPONENT}
        assert where <= {"secretKeyRef"}
    assert len({(path, name) for path, name in walk(things)}) == len(things)
    service, master = named(things, "Service"), named(things, "Job")
    labels = master["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    workers = named(things, "Job", f"{NAME}-workers")
    assert (workers["spec"]["completions"], workers["spec"]["parallelism"]) == (3, 3)
    assert f"--master={NAME}" in container(workers)["command"]
    assert "--workers=3" in container(master)["command"]
    assert things[0] == master


def test_a_key_travels_in_a_secret_that_is_waited_for() -> None:
    """Not in a command, and not left out where the pod is there before it."""
    things = made("--host=http://anchorage", api_key="the-key")
    assert named(things, "Secret")["stringData"] == {"api-key": "the-key"}
    for job in (named(things, "Job"), named(things, "Job", f"{NAME}-workers")):
        (source,) = [one["valueFrom"]["secretKeyRef"] for one in container(job)["env"] if "valueFrom" in one]
        assert source == {"name": NAME, "key": "api-key", "optional": False}
        assert "the-key" not in str(job)


def test_files_are_carried_along(tmp_path: Path) -> None:
    """Questions and a trace: read here, mounted there, named so that both sides know them."""
    questions, trace = tmp_path / "my questions.jsonl", tmp_path / "t.csv"
    questions.write_text('{"question": "Wüst?"}\n')
    trace.write_text("0.1\n")
    things = made("--questions", str(questions), f"--arrivals=trace:{trace},x2", "--host=http://anchorage")
    args = container(named(things, "Job"))["args"]
    assert args == [
        "--questions=/files/questions.jsonl",
        "--arrivals=trace:/files/arrivals.csv,x2",
        "--host=http://anchorage",
    ]
    assert named(things, "ConfigMap")["data"] == {"questions.jsonl": '{"question": "Wüst?"}\n', "arrivals.csv": "0.1\n"}
    with pytest.raises(ConfigurationError, match=r"absent\.jsonl: cannot be read"):
        made(f"--questions={tmp_path}/absent.jsonl")


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        ((), 86400 + 60 + 300),
        (("--run-time=1h30m", "--stop-timeout=10", "--ready-s=5"), 5415),
        (("--run-time", "90", "--run-time", "120s"), 120 + 60 + 300),
    ],
)
def test_a_run_has_the_time_that_it_needs(arguments: tuple[str, ...], seconds: int) -> None:
    """What its own options take, twice the start of its pods, and a quarter of an hour."""
    job = named(made(*arguments, "--host=http://anchorage"), "Job")
    assert job["spec"]["activeDeadlineSeconds"] == seconds + 1200 + 900


def test_pods_go_where_the_apis_go() -> None:
    """Image, pull secrets, nodes and tolerations of the deployment's group `cpu`."""
    rendered = rendering.rendered(Offer("eks"))
    image, spec = placement(rendered.of("RayService"))
    assert image.startswith("ghcr.io/anchorage/anchorage:")
    assert spec.keys() <= {"imagePullSecrets", "nodeSelector", "tolerations"}
    things = made("--host=http://anchorage", placement={"nodeSelector": {"pool": "cpu"}})
    assert named(things, "Job")["spec"]["template"]["spec"]["nodeSelector"] == {"pool": "cpu"}
    assert placement([]) == ("", {})
