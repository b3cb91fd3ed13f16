"""The manifests of ingestion, without a cluster: schemas, pods, commands, settings, rights, and KubeRay's own rules."""

from __future__ import annotations

import copy
import os
import shlex
from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

from ingestion.dispatch import Copy, copy_of
from serving.cli import build
from serving.settings import Settings
from tests.manifests.schemas import (
    ROOT,
    check_core,
    check_custom,
    check_pod,
    containers,
    manifests,
    restricted,
)

FILES = manifests("base/ingestion")
JOB, CRON = FILES["rayjob"], FILES["cronjob"]
CORE = sorted(set(FILES) - {"rayjob"})
#: Placeholders that become images of a version.
IMAGES = {
    image["name"]
    for image in yaml.safe_load((ROOT / "manifests" / "versions" / "kustomization.yaml").read_text())["images"]
}
#: What OpenCost counts by.
COST = {"app", "team", "owner"}
LABELS = {"app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/part-of"}
CLUSTER = JOB["spec"]["rayClusterSpec"]
GROUPS = CLUSTER["workerGroupSpecs"]


def templates() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template, by what it is for."""
    yield "submitter", JOB["spec"]["submitterPodTemplate"]
    yield "head", CLUSTER["headGroupSpec"]["template"]
    for group in GROUPS:
        yield group["groupName"], group["template"]
    yield "dispatch", CRON["spec"]["jobTemplate"]["spec"]["template"]


PODS = dict(templates())
RAY_PODS = {name: pod for name, pod in PODS.items() if name not in ("submitter", "dispatch")}


def parsed(command: list[str]) -> Any:
    """The command line as our program understands it; typer refuses what it does not know."""
    program, name, *arguments = command
    assert program == "anchorage"
    found = typer.main.get_command(build()).commands[name]  # type: ignore[attr-defined]
    return found.make_context(name, arguments).params


@pytest.mark.parametrize("name", CORE)
def test_core_kinds_are_what_kubernetes_takes(name: str) -> None:
    """In the oldest and the newest release, with no unknown key."""
    check_core(FILES[name])


def test_the_ray_job_is_what_its_crd_takes() -> None:
    """The template, and the copy that `anchorage dispatch` makes of it."""
    check_custom(JOB)
    check_custom(copy_of(JOB, Copy("anchorage-sync-29401234")))


@pytest.mark.parametrize(
    "path", ["spec", "spec/rayClusterSpec", "spec/rayClusterSpec/headGroupSpec", "spec/entrypoint"]
)
def test_the_check_by_crd_can_fail(path: str) -> None:
    """A misspelt key is refused at every level, and a wrong type."""
    wrong = copy.deepcopy(JOB)
    *above, last = path.split("/")
    parent = wrong
    for part in above:
        parent = parent[part]
    if isinstance(parent[last], dict):
        parent[last]["misspelt"] = 1
    else:
        parent[last] = 1
    with pytest.raises(jsonschema.ValidationError):
        check_custom(wrong)


@pytest.mark.parametrize("name", PODS)
def test_pod_templates_are_pods(name: str) -> None:
    """As core pods, labelled, restricted, with requests and limits, with no token that nobody needs."""
    pod = PODS[name]
    check_pod(pod)
    assert set(pod["metadata"]["labels"]) >= LABELS
    assert restricted(pod["spec"]) == []
    for container in containers(pod["spec"]):
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys() & container["resources"]["limits"].keys()
        assert container["image"] == ("anchorage-gpu" if name == "embed" else "anchorage-cpu")
        assert container["image"] in IMAGES, "manifests/versions says which image it is"
    assert pod["spec"]["priorityClassName"] == "anchorage-ingestion"
    assert set(pod["metadata"]["labels"]) >= COST
    # The head's autoscaler and the dispatcher talk to the API server, others do not. (The dispatcher's account mounts.)
    mounted = {"head": True, "dispatch": None}.get(name, False)
    assert pod["spec"].get("automountServiceAccountToken") is mounted


@pytest.mark.parametrize("name", RAY_PODS)
def test_sources_are_read_by_an_account_of_our_own(name: str) -> None:
    """Every pod of a run has one that a cloud can know, without rights of itself, and keys where somebody made them."""
    account = FILES["serviceaccount-ingestion"]
    assert account["automountServiceAccountToken"] is False
    assert RAY_PODS[name]["spec"]["serviceAccountName"] == account["metadata"]["name"]
    (container,) = RAY_PODS[name]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "anchorage-sources", "optional": True}}]


def test_the_checks_of_pods_can_fail() -> None:
    """A misspelt key is refused, and so are root and a host's folder."""
    pod = copy.deepcopy(PODS["parse"])
    pod["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check_pod(pod)
    pod = copy.deepcopy(PODS["parse"])
    pod["spec"]["containers"][0]["securityContext"] = {"runAsUser": 0}
    pod["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    assert len(restricted(pod["spec"])) == 4


def test_the_entrypoint_is_a_command_of_ours() -> None:
    """Every flag is one that `anchorage ingest` has."""
    parameters = parsed(shlex.split(JOB["spec"]["entrypoint"]))
    assert (parameters["distributed"], parameters["ray_address"]) == (True, "auto")
    assert parameters["sources"]
    with pytest.raises(Exception, match="misspelt"):
        parsed([*shlex.split(JOB["spec"]["entrypoint"]), "--misspelt"])


def test_the_cron_job_dispatches_the_template() -> None:
    """By its name, to a name that a RayJob can have, with rights to do just that."""
    (container,) = PODS["dispatch"]["spec"]["containers"]
    parameters = parsed([*container["command"], *container["args"]])
    assert parameters["template"] == JOB["metadata"]["name"]
    named = {variable["name"] for variable in container["env"]}
    assert {parameters["name"], parameters["namespace"]} == {f"$({name})" for name in named}
    assert len(CRON["metadata"]["name"]) + len("-29401234") <= 47
    assert CRON["spec"]["concurrencyPolicy"] == "Forbid"

    account = FILES["serviceaccount"]["metadata"]["name"]
    assert PODS["dispatch"]["spec"]["serviceAccountName"] == account
    assert FILES["rolebinding"]["roleRef"]["name"] == FILES["role"]["metadata"]["name"]
    assert [subject["name"] for subject in FILES["rolebinding"]["subjects"]] == [account]
    assert FILES["role"]["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "create"]}]


@pytest.mark.parametrize("name", RAY_PODS)
def test_variables_are_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ANCHORAGE_ variable is one that Settings know, plain values are valid, secrets come by reference."""
    for variable in [name for name in os.environ if name.startswith("ANCHORAGE_")]:
        monkeypatch.delenv(variable)
    (container,) = RAY_PODS[name]["spec"]["containers"]
    ours = [variable for variable in container["env"] if variable["name"].startswith("ANCHORAGE_")]
    assert {"ANCHORAGE_INDEX__MILVUS_URI", "ANCHORAGE_INDEX__CATALOG_URL"} <= {one["name"] for one in ours}
    for variable in ours:
        model: Any = Settings
        *groups, field = variable["name"].removeprefix("ANCHORAGE_").lower().split("__")
        for group in groups:
            model = model.model_fields[group].annotation
        assert field in model.model_fields, variable["name"]
        if field in ("catalog_url", "milvus_token"):
            assert variable["valueFrom"]["secretKeyRef"]["name"] == "anchorage-index"
        elif "value" in variable:
            monkeypatch.setenv(variable["name"], variable["value"])
        else:
            reference = variable["valueFrom"]["configMapKeyRef"]
            assert reference["name"] == FILES["configmap"]["metadata"]["name"]
            monkeypatch.setenv(variable["name"], FILES["configmap"]["data"][reference["key"]])
    Settings()


def test_what_kuberay_checks_itself() -> None:
    """Rules that are in the operator and not in the CRD."""
    spec = JOB["spec"]
    assert len(JOB["metadata"]["name"]) <= 47
    assert spec["suspend"] is True
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] >= 0
    assert spec["backoffLimit"] >= 0
    assert "deletionStrategy" not in spec
    assert "clusterSelector" not in spec
    assert CLUSTER["enableInTreeAutoscaling"] is True
    assert CLUSTER["autoscalerOptions"]["version"] == "v2"
    assert restricted({"containers": [{"name": "autoscaler", **CLUSTER["autoscalerOptions"]}]}) == []
    for name, pod in RAY_PODS.items():
        assert pod["spec"].get("restartPolicy") in (None, "Never"), name
    for group in GROUPS:
        assert 0 <= group["minReplicas"] <= group["maxReplicas"]
        assert not (group.get("resources") and group["rayStartParams"].keys() & {"num-gpus"})


def test_work_fits_the_groups_and_stays_off_the_head() -> None:
    """GPUs only where they are tolerated, from zero; the workers that the settings allow have room."""
    head = CLUSTER["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    with_gpu = {
        name
        for name, pod in PODS.items()
        for one in containers(pod["spec"])
        if "nvidia.com/gpu" in one["resources"]["limits"]
    }
    tolerant = {name for name, pod in PODS.items() if pod["spec"].get("tolerations")}
    assert with_gpu == tolerant == {"embed"}
    parse, embed = GROUPS
    assert (parse["minReplicas"], embed["minReplicas"]) == (0, 0)
    (container,) = head["template"]["spec"]["containers"]
    values = {one["name"]: one.get("value") for one in container["env"]}
    workers = int(values["ANCHORAGE_INGESTION__CLUSTER__MAX_WORKERS"])
    gpus = float(values["ANCHORAGE_INGESTION__CLUSTER__EMBED_GPUS"])
    cpus = int(parse["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert parse["maxReplicas"] * cpus >= workers
    assert embed["maxReplicas"] * 1.0 >= workers * gpus
    assert float(embed["rayStartParams"]["num-cpus"]) >= 1.0
