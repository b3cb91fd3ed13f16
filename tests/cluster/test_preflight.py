"""What `anchorage deploy` finds missing before it changes anything, each with what to do."""

from __future__ import annotations

from typing import Any

import pytest

from serving.errors import ConfigurationError
from tests.cluster.apiserver import Refused, Server
from tests.cluster.conftest import Cli
from tests.cluster.known_kinds import KINDS

LOCAL = ("deploy", "--overlay", "local")


def dry_run(cli: Cli, *options: str) -> str:
    """What it says, whether it goes on or stops."""
    return " ".join(cli(*LOCAL, "--dry-run", *options, check=False).text.split())


def namespace(server: Server, **labels: str) -> None:
    server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "anchorage", "labels": labels}})


def put(server: Server, kind: str, name: str, api_version: str = "v1", **fields: Any) -> None:
    where = {"namespace": "anchorage"} if server.kinds[kind][2] else {}
    server.put({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, **where}, **fields})


def test_operators_that_are_missing(server: Server, cli: Cli) -> None:
    """By the kinds that the server does not know; nothing is applied."""
    server.kinds = dict(KINDS)
    text = dry_run(cli, "--with", "monitoring")
    assert "does not know RayJob, RayService of ray.io/v1" in text
    assert "Install kuberay" in text
    assert "does not know" in text
    assert "Install prometheus-operator" in text
    assert server.objects == {}


def test_an_operator_that_is_too_old(server: Server, cli: Cli) -> None:
    """It knows the group, in another version."""
    server.kinds = {**server.kinds, "RayService": ("ray.io/v1alpha1", "rayservices", True)}
    del server.kinds["RayJob"], server.kinds["RayCluster"]
    assert "It has ray.io/v1alpha1: update" in dry_run(cli)


def test_an_old_server_is_a_warning(server: Server, cli: Cli) -> None:
    """It may work."""
    server.version = "v1.31.4-eks-1a2b3c"
    done = cli(*LOCAL, "--dry-run")
    assert done.code == 0
    assert "v1.31.4-eks-1a2b3c is older than what is tested" in done.text


def test_rights_that_are_missing(server: Server, cli: Cli) -> None:
    """Which verbs of which kinds; reading pods is only for the progress."""
    server.denied = {("create", "rayservices"), ("patch", "rayservices"), ("list", "pods")}
    text = dry_run(cli)
    assert "You may not create/patch rayservices.ray.io (namespace anchorage)" in text
    assert "You may not list pods: what the deployment waits for cannot be said" in text


def test_what_is_cluster_wide_may_be_there_already(server: Server, cli: Cli) -> None:
    """An administrator made it once: it is used as it is."""
    server.denied = {("patch", "priorityclasses"), ("create", "priorityclasses"), ("create", "namespaces")}
    namespace(server)
    assert "You may not create/patch priorityclasses" in dry_run(cli)
    for name in ("anchorage-serving", "anchorage-ingestion"):
        put(server, "PriorityClass", name, "scheduling.k8s.io/v1", value=1)
        server.objects["PriorityClass", "", name]["metadata"]["labels"] = {"app.kubernetes.io/part-of": "anchorage"}
    done = cli(*LOCAL, "--no-wait")
    assert done.code == 0, done.text
    assert server.objects["PriorityClass", "", "anchorage-serving"]["value"] == 1


def test_a_secret_that_only_the_user_has(server: Server, cli: Cli) -> None:
    """The address of somebody else's database is not made up."""
    options = ("--with", "no-postgres", "--with", "external-data")
    text = dry_run(cli, *options)
    assert "Secret anchorage-index is missing in anchorage, or its catalog-url" in text
    assert "kubectl create secret generic anchorage-index --namespace anchorage --from-env-file" in text
    namespace(server)
    put(server, "Secret", "anchorage-index", data={"catalog-url": "eA=="})
    assert cli(*LOCAL, *options, "--dry-run").code == 0


def test_a_namespace_that_goes_away(server: Server, cli: Cli) -> None:
    """Nothing can be made in it."""
    namespace(server)
    server.objects["Namespace", "", "anchorage"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert "The namespace anchorage is being deleted" in dry_run(cli)


def test_somebody_elses_objects_of_our_names(server: Server, cli: Cli) -> None:
    """A `postgres` that is not ours is not merged with ours."""
    namespace(server)
    put(server, "StatefulSet", "postgres", "apps/v1", spec={"replicas": 1})
    assert "StatefulSet/postgres is already there, and is not part of Anchorage" in dry_run(cli)


def test_quotas_and_limits(server: Server, cli: Cli) -> None:
    """What the start asks for is counted; a limit is a container's."""
    namespace(server)
    hard = {"hard": {"requests.cpu": "2", "requests.nvidia.com/gpu": "1", "pods": "50"}}
    put(server, "ResourceQuota", "team", spec=hard, status={**hard, "used": {"requests.cpu": "1500m"}})
    limits = [{"type": "Container", "max": {"memory": "64Mi"}}]
    put(server, "LimitRange", "small", spec={"limits": limits})
    text = dry_run(cli, "--model", "m", "--gpus", "2")
    assert "The quota team leaves 0.5 of requests.cpu, and the start needs" in text
    assert "The quota team allows 1 GPUs" in text
    assert "The LimitRange small allows memory 64Mi a container" in text


def test_what_is_not_there_yet_is_a_warning(server: Server, cli: Cli) -> None:
    """A server without nodes and storage: volumes and GPUs will be waited for."""
    done = cli(*LOCAL, "--model", "m", "--dry-run")
    assert done.code == 0
    assert "no default storage class" in done.text
    assert "No node has a GPU" in done.text
    annotation = {"storageclass.kubernetes.io/is-default-class": "true"}
    put(server, "StorageClass", "fast", "storage.k8s.io/v1")
    server.objects["StorageClass", "", "fast"]["metadata"]["annotations"] = annotation
    put(server, "Node", "n1", status={"allocatable": {"nvidia.com/gpu": "1"}})
    done = cli(*LOCAL, "--model", "m", "--dry-run")
    assert "storage class" not in done.text
    assert "No node has a GPU" not in done.text
    assert "the largest node has 1" in cli(*LOCAL, "--model", "m", "--gpus", "2", "--dry-run").text


def test_pods_that_admission_would_refuse(server: Server, cli: Cli) -> None:
    """Asked by dry runs of pods, before operators make them: nothing else is applied."""

    def review(thing: dict[str, Any], _: str) -> None:
        if thing["kind"] == "Pod" and thing["spec"]["containers"][0]["name"] == "ray-head":
            raise Refused(403, "Forbidden", 'pods "x" is forbidden: violates PodSecurity "restricted:latest": seccomp')

    namespace(server)
    server.admission = [review]
    text = dry_run(cli)
    assert "Pods of RayService/anchorage (spec.rayClusterConfig.headGroupSpec.template) are not allowed" in text
    with pytest.raises(ConfigurationError, match="Nothing was applied"):
        cli(*LOCAL, "--no-wait")
    assert server.names() == {"Namespace/anchorage"}


def test_fields_that_the_server_does_not_know(server: Server, cli: Cli) -> None:
    """Server-side apply says it with a 500: it is an answer, and not waited for."""

    def review(thing: dict[str, Any], _: str) -> None:
        if thing["kind"] == "RayService":
            text = "failed to create typed patch object: .spec.excludeHeadPodFromServeSvc: field not declared in schema"
            raise Refused(500, "", text)

    namespace(server)
    server.admission = [review]
    assert "RayService/anchorage: failed to create typed patch object" in dry_run(cli)


def test_what_the_server_warns_of_is_shown(server: Server, cli: Cli) -> None:
    """Once, with whom it concerns."""
    namespace(server)
    server.warning = 'would violate \\"restricted\\"'
    assert 'would violate "restricted"' in dry_run(cli)


@pytest.mark.parametrize(
    ("version", "nodes", "overlay"),
    [
        ("v1.36.1-eks-2f39a", [], "eks"),
        ("v1.36.0-gke.100", [], "gke"),
        ("v1.36.0", [{"spec": {"providerID": "azure:///x"}}], "aks"),
        ("v1.36.0", [{"spec": {"providerID": "kind://docker/x"}}], "local"),
        ("v1.36.0", [], "local"),
    ],
)
def test_the_overlay_of_a_cluster(
    server: Server, cli: Cli, version: str, nodes: list[dict[str, Any]], overlay: str
) -> None:
    """By what it says about itself, unless it is named."""
    server.version = version
    for number, node in enumerate(nodes):
        put(server, "Node", f"n{number}", **node)
    with_errors = cli("deploy", "--dry-run", check=False)
    assert f"overlay {overlay} (" in with_errors.text


def test_rights_in_one_namespace_are_enough(server: Server, cli: Cli) -> None:
    """An administrator made the namespace and what is cluster-wide; neither can be looked at or changed."""
    assert cli(*LOCAL, "--no-wait").code == 0
    for (kind, where, name), _ in list(server.objects.items()):
        if where:
            server.drop((kind, where, name))
    wide = ("namespaces", "priorityclasses", "nodes", "storageclasses")
    server.denied = {(verb, plural) for plural in wide for verb in ("list", "create", "patch", "delete")}
    server.denied |= {("get", "namespaces"), ("get", "nodes")}
    done = cli(*LOCAL, "--no-wait")
    assert done.code == 0, done.text
    assert "kept      Namespace/anchorage" in done.text
    assert server.find("RayService", "anchorage") is not None
