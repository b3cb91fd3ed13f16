"""`anchorage destroy`: what we applied goes, and nothing else."""

from __future__ import annotations

import threading
from typing import Any

from tests.cluster.apiserver import Fault, Server
from tests.cluster.conftest import Cli
from tests.cluster.operators import pod, wait_for

DEPLOY = ("deploy", "--overlay", "local", "--no-wait")
DESTROY = ("destroy", "--yes", "--timeout", "0.5")


def foreign(server: Server, kind: str, name: str, api_version: str = "v1", **metadata: Any) -> None:
    server.put(
        {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": "anchorage", **metadata}}
    )


def test_data_stays_unless_it_is_named(server: Server, cli: Cli) -> None:
    """Secrets and volumes, with the namespace that holds them; everything else goes, what operators work on first."""
    assert cli(*DEPLOY).code == 0
    labels = {"app.kubernetes.io/managed-by": "anchorage", "app.kubernetes.io/instance": "anchorage"}
    # As the StatefulSet's controller makes it.
    foreign(
        server, "PersistentVolumeClaim", "data-postgres-0", labels=labels, finalizers=["kubernetes.io/pvc-protection"]
    )
    done = cli(*DESTROY)
    assert done.code == 0, done.text
    assert {kind for kind, _, _ in server.objects} == {"Namespace", "Secret", "PersistentVolumeClaim"}
    deleted = [each for each in server.requests if each.startswith("DELETE")]
    assert "/rayservices/" in deleted[0] + deleted[1]
    assert "Kept: " in done.text
    # Nothing runs that would take the finalizer away: it is said, and not waited for longer than asked.
    done = cli(*DESTROY, "--data")
    assert done.code == 1
    assert (
        "PersistentVolumeClaim/data-postgres-0: waits for whoever set the finalizer kubernetes.io/pvc-protection"
        in (done.text)
    )
    assert "Namespace/anchorage: the namespace controller has not emptied it yet" in done.text
    assert not any(kind == "Secret" for kind, _, _ in server.objects)


def test_what_somebody_else_made_stays(server: Server, cli: Cli) -> None:
    """Of the same namespace, of the same labels, of operators; a namespace that was there, too."""
    server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "anchorage"}})
    assert cli(*DEPLOY).code == 0
    foreign(server, "ConfigMap", "mine")
    foreign(server, "ConfigMap", "alike", labels={"app.kubernetes.io/part-of": "anchorage"})
    labels = {"app.kubernetes.io/managed-by": "anchorage", "app.kubernetes.io/instance": "anchorage"}
    owner = [{"kind": "RayService", "name": "anchorage", "uid": "1", "apiVersion": "ray.io/v1"}]
    foreign(server, "RayCluster", "anchorage-x", "ray.io/v1", labels=labels, ownerReferences=owner)
    done = cli(*DESTROY, "--data")
    assert done.code == 0, done.text
    assert server.names() == {"Namespace/anchorage", "ConfigMap/mine", "ConfigMap/alike", "RayCluster/anchorage-x"}
    assert server.objects["Namespace", "", "anchorage"]["metadata"].get("deletionTimestamp") is None


def test_data_of_others_keeps_our_namespace(server: Server, cli: Cli) -> None:
    """Volumes that an operator made and Secrets of a secret store have no label of ours, and would go with it."""
    assert cli(*DEPLOY).code == 0
    for key in [key for key in server.objects if key[0] == "Secret"]:
        server.drop(key)
    foreign(server, "Secret", "token", type="x")
    done = cli(*DESTROY)
    assert done.code == 0, done.text
    assert server.names() == {"Namespace/anchorage", "Secret/token"}
    assert "Kept: Namespace/anchorage" in done.text
    assert cli(*DESTROY, "--data").code == 1
    assert server.objects["Namespace", "", "anchorage"]["metadata"]["deletionTimestamp"]


def test_data_that_may_not_be_seen_keeps_our_namespace(server: Server, cli: Cli) -> None:
    """Who may delete the namespace and not list what holds data does not lose it so."""
    assert cli(*DEPLOY).code == 0
    server.denied = {("list", "secrets")}
    assert cli(*DESTROY).code == 0
    assert server.find("Secret", "anchorage-ray") is not None
    assert server.objects["Namespace", "", "anchorage"]["metadata"].get("deletionTimestamp") is None


def test_it_waits_for_the_pods(server: Server, cli: Cli) -> None:
    """They finish what they have begun; the end comes when the last one is gone."""
    assert cli(*DEPLOY).code == 0
    going = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 360}
    server.put(pod("anchorage-gpu-1", node="n", **going))
    done = cli(*DESTROY)
    assert done.code == 1
    assert "Pod/anchorage-gpu-1: it finishes what it has begun, 360 s at most" in done.text

    def kubelet() -> None:
        wait_for(lambda: server.requests[-1].startswith("GET /api/v1/namespaces/anchorage/pods"), "a look at the pods")
        server.drop(("Pod", "anchorage", "anchorage-gpu-1"))

    assert cli(*DEPLOY).code == 0
    threading.Thread(target=kubelet, daemon=True).start()
    assert cli("destroy", "--yes", "--timeout", "20").code == 0


def test_nothing_is_deleted_unasked(server: Server, cli: Cli) -> None:
    """Without a terminal there is nobody to ask."""
    assert cli(*DEPLOY).code == 0
    before = server.names()
    done = cli("destroy")
    assert (done.code, server.names()) == (1, before)
    assert "--yes" in done.text


def test_nothing_there_is_no_failure(server: Server, cli: Cli) -> None:
    """Twice is as good as once."""
    assert cli(*DESTROY).code == 0
    assert cli(*DEPLOY).code == 0
    assert cli(*DESTROY).code == 0
    done = cli(*DESTROY)
    assert done.code == 0
    assert "nothing of ours" in done.text


def test_an_api_that_does_not_answer_is_told(server: Server, cli: Cli) -> None:
    """What runs on GPUs is not forgotten for one bad moment, and is not said to be gone."""
    assert cli(*DEPLOY).code == 0
    server.faults = [Fault(r"GET /apis/ray.io/v1$", 503, times=-1)]
    done = cli(*DESTROY)
    assert done.code == 1
    assert "ray.io/v1 did not answer" in done.text
    server.faults = [Fault(r"GET /apis/ray.io/v1$", 503)]
    assert cli(*DESTROY).code == 0
    assert server.find("RayService", "anchorage") is None


def test_rights_that_are_missing_are_told(server: Server, cli: Cli) -> None:
    """What may not be seen or deleted stays, and is named."""
    assert cli(*DEPLOY).code == 0
    server.denied = {("delete", "statefulsets"), ("list", "networkpolicies")}
    done = cli(*DESTROY)
    assert done.code == 1
    assert "You may not list NetworkPolicy" in done.text
    assert 'cannot delete resource "statefulsets"' in done.text
    assert server.find("StatefulSet", "postgres") is not None
    assert server.find("RayService", "anchorage") is None


def wide(server: Server) -> set[str]:
    """What is cluster-wide."""
    return {f"{kind}/{name}" for kind, namespace, name in server.objects if not namespace and kind != "Namespace"}


EKS = ("deploy", "--overlay", "eks", "--with", "kueue", "--no-wait")


def test_what_another_deployment_uses_stays_until_it_goes(server: Server, cli: Cli) -> None:
    """The first one's end leaves priorities, queues and node pools to the second; the second one's takes them away."""
    assert cli(*EKS).code == 0
    assert cli(*EKS, "--namespace", "second").code == 0
    before = wide(server)
    assert {"NodePool/anchorage-gpu", "PriorityClass/anchorage-serving", "ClusterQueue/anchorage-ingestion"} <= before
    done = cli(*DESTROY)
    assert done.code == 0, done.text
    assert "kept: still used by second." in done.text
    assert wide(server) == before
    assert server.find("RayService", "anchorage") is None
    # Neither does a deployment without them, told to take away what it lacks.
    assert cli("deploy", "--overlay", "local", "--no-wait", "--prune").code == 0
    assert wide(server) == before
    assert cli(*DESTROY).code == 0
    done = cli(*DESTROY, "--namespace", "second")
    assert done.code == 0, done.text
    assert "still used" not in done.text
    assert wide(server) == set()


def test_others_that_cannot_be_seen_are_taken_to_be_there(server: Server, cli: Cli) -> None:
    """What they may use stays, and is told with the command that deletes it."""
    assert cli(*EKS).code == 0
    before = wide(server)
    server.denied = {("list", "rayservices", "")}
    done = cli(*DESTROY)
    assert done.code == 0, done.text
    assert "cannot list resource" in done.text
    assert "If none does: kubectl delete " in done.text
    assert "nodepool.karpenter.sh/anchorage-gpu" in done.text
    assert wide(server) == before
    server.denied = set()
    assert cli(*DESTROY).code == 0
    assert wide(server) == set()


def test_without_kuberay_other_deployments_are_known_by_their_services(server: Server, cli: Cli) -> None:
    """Somebody who took the operator away first still finds what is left of each."""
    assert cli(*DEPLOY).code == 0
    assert cli(*DEPLOY, "--namespace", "second").code == 0
    for kind in [kind for kind, (version, _, _) in server.kinds.items() if version == "ray.io/v1"]:
        del server.kinds[kind]
    for key in [key for key in server.objects if key[0].startswith("Ray")]:
        server.drop(key)
    assert "kept: still used by second." in cli(*DESTROY).text
    assert cli(*DESTROY, "--namespace", "second").code == 0
    assert wide(server) == set()
