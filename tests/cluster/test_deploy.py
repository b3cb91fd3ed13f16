"""`anchorage deploy` against an API server: what it applies, in which order, and what it says."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from serving.errors import ConfigurationError
from tests.cluster.apiserver import Fault, Refused, Server
from tests.cluster.conftest import Cli
from tests.cluster.operators import ago, operators, pod
from tests.cluster.rendered import rendered

LOCAL = ("deploy", "--overlay", "local")


def secret_values(server: Server) -> list[str]:
    """Everything that nobody may read on a screen."""
    values = [
        base64.b64decode(value).decode()
        for (kind, _, _), thing in server.objects.items()
        if kind == "Secret"
        for value in thing["data"].values()
    ]
    assert values
    return values + [base64.b64encode(value.encode()).decode() for value in values]


def test_an_empty_cluster_to_a_serving_endpoint(server: Server, cli: Cli) -> None:
    """One command: namespace first, custom resources last, Secrets made and not shown, ready, and what to do next."""
    with operators(server):
        done = cli(*LOCAL)
    assert done.code == 0, done.text
    patched = [each for each in server.requests if each.startswith("PATCH") and "dryRun" not in each]
    assert "/namespaces/anchorage?" in patched[0]
    assert "/rayservices/anchorage?" in patched[-1]
    assert all("fieldManager=anchorage" in each and "fieldValidation=Strict" in each for each in patched)
    assert "It serves: http://anchorage.anchorage.svc/v1" in done.text
    assert "nobody has looked at it yet" not in done.text.rpartition("It serves")[2]
    assert not [value for value in secret_values(server) if value in done.text]
    labels = server.objects["RayService", "anchorage", "anchorage"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "anchorage"


def test_the_same_again_changes_nothing(server: Server, cli: Cli) -> None:
    """Neither objects nor Secrets; each is said to be unchanged."""
    assert cli(*LOCAL, "--no-wait").code == 0
    before, version = secret_values(server), server.latest
    done = cli(*LOCAL, "--no-wait")
    assert done.code == 0
    assert (secret_values(server), server.latest) == (before, version)
    assert "created" not in done.text
    assert done.text.count("unchanged") == sum(kind != "Secret" for kind, _, _ in server.objects)


def test_the_catalog_has_the_password_of_its_database(server: Server, cli: Cli) -> None:
    """Also when a run ended between the two."""
    assert cli(*LOCAL, "--no-wait").code == 0
    kept = server.objects["Secret", "anchorage", "anchorage-postgres"]["data"]["password"]
    server.drop(("Secret", "anchorage", "anchorage-index"))
    assert cli(*LOCAL, "--no-wait").code == 0
    url = base64.b64decode(server.objects["Secret", "anchorage", "anchorage-index"]["data"]["catalog-url"]).decode()
    assert url == f"postgresql+asyncpg://anchorage:{base64.b64decode(kept).decode()}@postgres:5432/anchorage"
    assert server.objects["Secret", "anchorage", "anchorage-postgres"]["data"]["password"] == kept


def test_a_dry_run_changes_nothing(server: Server, cli: Cli) -> None:
    """Neither on an empty cluster nor on one that has an older deployment; the table says what would."""
    done = cli(*LOCAL, "--dry-run")
    assert (done.code, server.objects) == (0, {})
    assert "Secret/anchorage-ray" in done.text
    assert cli(*LOCAL, "--no-wait").code == 0
    version = server.latest
    done = cli(*LOCAL, "--set", "retrieval.top_k=9", "--dry-run")
    assert done.code == 0
    assert server.latest == version
    changed = [line.split()[1] for line in done.text.splitlines() if line.startswith("changed")]
    assert changed == ["RayService/anchorage"]
    assert not [value for value in secret_values(server) if value in done.text]


def test_a_run_that_was_cut_short_is_completed(server: Server, cli: Cli) -> None:
    """The API server goes away in the middle, and says no to one object; the next run does the rest."""
    server.faults = [Fault(r"^PATCH .*/statefulsets/postgres\?(?!.*dryRun)", status=403, reason="Forbidden")]
    with pytest.raises(ConfigurationError, match="1 of"):
        cli(*LOCAL, "--no-wait")
    assert server.find("StatefulSet", "postgres") is None
    assert server.find("RayService", "anchorage") is not None
    done = cli(*LOCAL, "--no-wait")
    assert done.code == 0
    assert [line.split()[1] for line in done.text.splitlines() if "created" in line] == ["StatefulSet/postgres"]


def test_a_server_that_is_away_for_a_moment_is_waited_for(server: Server, cli: Cli) -> None:
    """Unavailable, overloaded, gone without an answer, done without an answer: nothing is lost, nothing is twice."""
    server.faults = [
        Fault("^PATCH .*configmaps", status=503, reason="ServiceUnavailable"),
        Fault("^PATCH .*services", status=429, reason="TooManyRequests", retry_after=1),
        Fault("^PATCH .*rayservices", reset=True),
        Fault(r"^PATCH .*statefulsets/postgres\?(?!.*dryRun)", lost=True),
        Fault("^PATCH .*roles", status=500, message="failed calling webhook: connection refused"),
    ]
    assert cli(*LOCAL, "--no-wait").code == 0
    assert {"RayService/anchorage", "StatefulSet/postgres", "ConfigMap/milvus"} <= server.names()


def test_what_somebody_else_set_is_not_taken_over(server: Server, cli: Cli) -> None:
    """Named with its manager before anything is applied; --force-conflicts takes it over."""
    assert cli(*LOCAL, "--no-wait").code == 0
    service = server.objects["RayService", "anchorage", "anchorage"]
    service["spec"]["rayClusterDeletionDelaySeconds"] = 7
    for entry in service["metadata"]["managedFields"]:
        del entry["fieldsV1"]["f:spec"]["f:rayClusterDeletionDelaySeconds"]
    owned = {"f:spec": {"f:rayClusterDeletionDelaySeconds": {}}}
    service["metadata"]["managedFields"].append(
        {"manager": "kubectl-edit", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": owned}
    )
    version = server.latest
    with pytest.raises(ConfigurationError, match="Nothing was applied"):
        cli(*LOCAL, "--no-wait")
    assert server.latest == version
    done = cli(*LOCAL, "--dry-run")
    assert done.code == 1
    assert "kubectl-edit set .spec.rayClusterDeletionDelaySeconds" in done.text
    assert "--force-conflicts" in done.text
    assert cli(*LOCAL, "--no-wait", "--force-conflicts").code == 0
    assert server.objects["RayService", "anchorage", "anchorage"]["spec"]["rayClusterDeletionDelaySeconds"] != 7


def test_a_namespace_that_was_there_is_left_as_it_is(server: Server, cli: Cli) -> None:
    """Its labels are somebody else's."""
    mine = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": {"owner": "me"}}}
    server.put(mine)
    assert cli(*LOCAL, "--namespace", "team", "--no-wait").code == 0
    assert server.objects["Namespace", "", "team"]["metadata"]["labels"] == {"owner": "me"}
    assert server.find("RayService", "anchorage", "team") is not None
    assert {ns for kind, ns, _ in server.objects if ns} == {"team"}


def test_what_it_waits_for_is_said_with_its_reason(server: Server, cli: Cli) -> None:
    """By pods, events, claims and last words; the time is over with exit code 1."""
    assert cli(*LOCAL, "--no-wait").code == 0
    unschedulable = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes", "lastTransitionTime": ago(75)}
    server.put(pod("gpu-1", status={"phase": "Pending", "conditions": [unschedulable]}))
    crash = {"name": "ray-worker", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}}
    server.put(pod("cpu-1", node="n", status={"phase": "Running", "containerStatuses": [crash]}))
    server.logs["cpu-1"] = "starting\nModuleNotFoundError: no module named x\n"
    pull = {"name": "ray-worker", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    server.put(pod("cpu-2", node="n", status={"phase": "Pending", "containerStatuses": [pull]}))
    claim = {"name": "data-postgres-0", "namespace": "anchorage"}
    server.put({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim, "status": {"phase": "Pending"}})
    about = {"kind": "Pod", "name": "gpu-1"}
    event = {"apiVersion": "v1", "kind": "Event", "involvedObject": about, "reason": "NotTriggerScaleUp"}
    where = {"name": "e1", "namespace": "anchorage"}
    server.put({**event, "metadata": where, "message": "max node group size reached", "lastTimestamp": ago(5)})
    done = cli(*LOCAL, "--timeout", "0.2")
    assert done.code == 1
    for told in (
        "0/3 nodes (NotTriggerScaleUp: max node group size reached)",
        "CrashLoopBackOff (back-off 10s); its last words: ModuleNotFoundError: no module named x",
        "ErrImagePull (not found)",
        "1 m ",
        "does its storage class have a provisioner?",
        "RayService/anchorage",
        "does the KubeRay operator run?",
        "Not ready after",
    ):
        assert told in done.text, done.text


def test_components_that_went_are_told_and_pruned(server: Server, cli: Cli) -> None:
    """Data never is."""
    assert cli(*LOCAL, "--with", "ingress", "--no-wait").code == 0
    assert server.find("Ingress", "anchorage") is not None
    done = cli(*LOCAL, "--no-wait")
    assert "left from an earlier deployment: " in done.text
    assert server.find("Ingress", "anchorage") is not None
    assert cli(*LOCAL, "--no-wait", "--prune").code == 0
    assert server.find("Ingress", "anchorage") is None
    assert server.find("Secret", "anchorage-postgres") is not None


def test_two_deployments_share_what_is_cluster_wide(server: Server, cli: Cli) -> None:
    """It belongs to the first, and the second one's end does not take it away."""
    assert cli(*LOCAL, "--no-wait").code == 0
    assert cli(*LOCAL, "--no-wait", "--namespace", "second").code == 0
    labels = server.objects["PriorityClass", "", "anchorage-serving"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == "anchorage"
    cli("destroy", "--namespace", "second", "--yes", "--data", "--timeout", "0")
    assert server.find("PriorityClass", "anchorage-serving") is not None
    assert server.find("RayService", "anchorage") is not None
    assert server.find("RayService", "anchorage", "second") is None


def test_what_belongs_to_another_deployment_is_not_changed(server: Server, cli: Cli) -> None:
    """Kept as its owner wants it, and told; --force-conflicts takes it over, and so does who comes after its end."""
    kueue = (*LOCAL, "--with", "kueue", "--no-wait")

    def selected() -> tuple[str, str]:
        queue = server.objects["ClusterQueue", "", "anchorage-ingestion"]
        chosen = queue["spec"]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        return chosen, queue["metadata"]["labels"]["app.kubernetes.io/instance"]

    assert cli(*kueue).code == 0
    done = cli(*kueue, "--namespace", "second", "--dry-run")
    assert done.code == 0, done.text
    assert "ClusterQueue/anchorage-ingestion: kept, belongs to anchorage" in done.text
    server.denied = {("list", "rayservices", "anchorage")}
    assert cli(*kueue, "--namespace", "second").code == 0
    server.denied = set()
    done = cli(*kueue, "--namespace", "second")
    assert done.code == 0, done.text
    assert "ClusterQueue/anchorage-ingestion: kept, belongs to anchorage" in done.text
    assert "PriorityClass/anchorage-serving: kept" not in done.text
    assert selected() == ("anchorage", "anchorage")
    done = cli(*kueue, "--namespace", "second", "--force-conflicts")
    assert (done.code, selected()) == (0, ("second", "second"))
    server.drop(("RayService", "second", "anchorage"))
    assert cli(*kueue).code == 0
    assert selected() == ("anchorage", "anchorage")


def test_secrets_of_an_overlay_are_applied_and_not_shown(cli: Cli, tmp_path: Path, server: Server) -> None:
    """Neither rendered nor in a server's complaint."""
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: mine}\nstringData: {password: correct-horse}\n"
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "kustomization.yaml").write_text("resources: [mine.yaml]\n")
    done = cli("deploy", "--render", "--overlay", str(tmp_path))
    assert (done.code, "correct-horse" in done.text) == (0, False)
    server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "anchorage"}})
    server.faults = [Fault("^PATCH .*secrets", status=422, reason="Invalid", message="Invalid value: correct-horse")]
    done = cli("deploy", "--overlay", str(tmp_path), "--no-wait", check=False)
    assert (done.code, "Secret/mine" in done.text, "correct-horse" in done.text) == (1, True, False)
    assert cli("deploy", "--overlay", str(tmp_path), "--no-wait").code == 0
    assert server.find("Secret", "mine") is not None


def test_a_job_that_changed_is_made_again(server: Server, cli: Cli) -> None:
    """Kubernetes lets nobody change one; a model that is in a bucket already needs none."""
    options = ("deploy", "--overlay", "onprem", "--with", "weights-shared-volume", "--no-wait")

    def review(thing: dict[str, Any], operation: str) -> None:
        live = server.find("Job", "anchorage-weights")
        if thing["kind"] == "Job" and operation == "update" and live and thing["spec"] != live["spec"]:
            raise Refused(422, "Invalid", 'Job "anchorage-weights" is invalid: spec.template: field is immutable')

    server.admission = [review]
    assert cli(*options, "--model", "org/one").code == 0
    assert cli(*options, "--model", "org/two").code == 0
    job = server.objects["Job", "anchorage", "anchorage-weights"]
    assert {"name": "MODEL", "value": "org/two"} in job["spec"]["template"]["spec"]["containers"][0]["env"]
    assert not [thing for thing in rendered(cli, *options[1:-1], "--model", "s3://b/m") if thing["kind"] == "Job"]


def test_a_secret_that_somebody_makes_meanwhile_stays(server: Server, cli: Cli) -> None:
    """Two who deploy at one moment do not take each other's passwords away."""
    server.faults = [Fault("^POST .*secrets", status=409, reason="AlreadyExists", message="it exists")]
    done = cli(*LOCAL, "--no-wait")
    assert done.code == 0, done.text
    assert "Secret/anchorage-ray" not in done.text
    assert "Secret/anchorage-postgres" in done.text
