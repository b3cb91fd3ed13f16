"""`anchorage status --cluster`: what runs, on which nodes, and what it waits for."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.apiserver import Server
from tests.cluster.conftest import Cli
from tests.cluster.operators import ago, make_ready, pod

METRICS = """\
# HELP anchorage_requests_running Requests being worked on.
anchorage_requests_running{replica="a1",pool="answers"} 3.0
anchorage_requests_running{replica="a2",pool="answers"} 2.0
anchorage_requests_queued{replica="a1",pool="answers"} 4.0
anchorage_engine_requests{replica="l1"} 5.0
"""


def status(cli: Cli, *options: str) -> tuple[int, dict[str, Any]]:
    done = cli("status", "--cluster", "--json", *options)
    return done.code, json.loads(done.output)


def test_a_deployment_that_serves(server: Server, cli: Cli) -> None:
    """Replicas and requests by its own metrics, pods, GPU nodes; exit code 0."""
    assert cli("deploy", "--overlay", "local", "--no-wait").code == 0
    make_ready(server)
    server.metrics = METRICS
    server.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "g1"},
                "status": {"allocatable": {"nvidia.com/gpu": "2"},
                           "conditions": [{"type": "Ready", "status": "True"}]}})  # fmt: skip
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": ago(5)}
    server.put(pod("gpu-1", node="g1", status={"phase": "Running", "conditions": [ready]}))
    code, found = status(cli)
    assert (code, found["ready"]) == (0, True)
    assert found["load"]["replicas"] == {"Api": 2, "Embedder": 0, "Ingestor": 0, "Llm": 1}
    assert (found["load"]["requests_running"], found["load"]["requests_queued"]) == (5.0, 4.0)
    assert found["deployments"]["Api"]["status"] == "HEALTHY"
    (node,) = found["gpu_nodes"]
    assert (node["gpus"], node["used"], node["pods"]) == (2, 1, ["gpu-1"])
    text = cli("status", "--cluster").text
    for told in ("✓ RayService/anchorage", "gpu-1", "g1: 1 of 2 GPUs in use", "5 running, 4 queued, 5 in the LLM"):
        assert told in text


def test_what_it_waits_for(server: Server, cli: Cli) -> None:
    """With reasons and since when; exit code 1."""
    assert cli("deploy", "--overlay", "local", "--no-wait").code == 0
    unschedulable = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes", "lastTransitionTime": ago(90)}
    server.put(pod("gpu-1", status={"phase": "Pending", "conditions": [unschedulable]}))
    code, found = status(cli)
    assert code == 1
    waiting = {each["what"]: each for each in found["waiting"]}
    assert waiting["Pod/gpu-1"]["reason"] == "0/3 nodes"
    assert waiting["Pod/gpu-1"]["since_s"] >= 90
    assert waiting["RayService/anchorage"]["blocks"] is True
    assert "0/3 nodes" in cli("status", "--cluster").text


def test_an_upgrade_is_not_the_end(server: Server, cli: Cli) -> None:
    """The old cluster serves while the new one starts: what the new one waits for is told."""
    assert cli("deploy", "--overlay", "local", "--no-wait").code == 0
    make_ready(server)
    service = server.objects["RayService", "anchorage", "anchorage"]
    embedder = {"Embedder": {"status": "UPDATING", "message": "waits for a node"}}
    pending = {"anchorage": {"status": "DEPLOYING", "serveDeploymentStatuses": embedder}}
    service["status"]["pendingServiceStatus"] = {"applicationStatuses": pending}
    service["status"]["conditions"].append({"type": "UpgradeInProgress", "status": "True"})
    code, found = status(cli)
    assert code == 1
    reasons = [each["reason"] for each in found["waiting"]]
    assert any("the new cluster starts beside the old one" in each and "waits for a node" in each for each in reasons)


def test_little_rights_are_enough(server: Server, cli: Cli) -> None:
    """What may not be seen is left out, and said."""
    assert cli("deploy", "--overlay", "local", "--no-wait").code == 0
    make_ready(server)
    server.denied = {("list", "nodes"), ("list", "events"), ("list", "persistentvolumeclaims"), ("get", "services")}
    code, found = status(cli, "--namespace", "anchorage")
    assert code == 0
    assert found["gpu_nodes"] is None
    assert "could not be read" in found["load"]["reason"]


def test_nothing_is_deployed(server: Server, cli: Cli) -> None:
    """Said so; exit code 1."""
    code, found = status(cli)
    assert (code, found["workloads"]) == (1, [])
    assert "Nothing of Anchorage is deployed" in cli("status", "--cluster").text
