"""`anchorage deploy --render`: what the flags make of the manifests."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import pytest
import yaml

from serving.errors import ConfigurationError
from tests.cluster.apiserver import Server
from tests.cluster.conftest import Cli
from tests.cluster.rendered import ray_service, rendered

SERVED = """
applications:
- {name: anchorage, import_path: serving.deployments:build, args: {llm: {model: org/one, name: one, device: gpu}}}
"""


def test_a_model_is_a_number_of_gpus(cli: Cli) -> None:
    """Serve config, worker group and node limit go together; what was made for another model goes."""
    things = rendered(cli, "--overlay", "eks", "--model", "org/large", "--gpus", "4", "--max-replicas", "3")
    spec = ray_service(things)["spec"]
    llm = yaml.safe_load(spec["serveConfigV2"])["applications"][0]["args"]["llm"]
    assert (llm["model"], llm["max_replicas"]) == ("org/large", 3)
    assert llm["engine_args"] == {"tensor_parallel_size": 4}
    group = next(each for each in spec["rayClusterConfig"]["workerGroupSpecs"] if each["groupName"] == "gpu")
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (group["maxReplicas"], limits["nvidia.com/gpu"]) == (3, "4")
    pool = next(thing for thing in things if thing["kind"] == "NodePool" and "gpu" in thing["metadata"]["name"])
    assert int(pool["spec"]["limits"]["nvidia.com/gpu"]) >= 12
    assert "namespace" not in pool["metadata"]


def test_another_model_has_another_name(cli: Cli, tmp_path: Path) -> None:
    """Clients are not told that they talk to the one that an overlay was made for."""
    overlay = Path(str(resources.files("manifests"))) / "overlays" / "eks"
    named = {"op": "replace", "path": "/spec/serveConfigV2", "value": SERVED}
    patch = {"target": {"kind": "RayService"}, "patch": yaml.safe_dump([named])}
    mine = {"resources": [os.path.relpath(overlay, tmp_path)], "patches": [patch]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(mine))
    things = rendered(cli, "--overlay", str(tmp_path), "--model", "org/other")
    llm = yaml.safe_load(ray_service(things)["spec"]["serveConfigV2"])["applications"][0]["args"]["llm"]
    assert llm["model"] == "org/other"
    assert "name" not in llm


def test_a_model_brings_its_worker_group(cli: Cli) -> None:
    """Once, also where the overlay has one."""
    for overlay in ("local", "onprem"):
        groups = ray_service(rendered(cli, "--overlay", overlay, "--model", "m"))["spec"]["rayClusterConfig"]
        assert [each["groupName"] for each in groups["workerGroupSpecs"]] == ["cpu", "gpu"]


def test_settings_and_images_of_the_command_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested, as JSON or text; the environment of this machine is not the cluster's."""
    monkeypatch.setenv("ANCHORAGE_RETRIEVAL__TOP_K", "3")
    things = rendered(
        cli, "--overlay", "onprem", "--image", "registry:5000/mine:2", "--gpu-image", "registry:5000/gpu@sha256:ab",
        "--set", "llm.engine_args.max_model_len=4096", "--set", "llm.on_cold=wait",
    )  # fmt: skip
    spec = ray_service(things)["spec"]
    arguments = yaml.safe_load(spec["serveConfigV2"])["applications"][0]["args"]
    assert arguments["llm"]["engine_args"]["max_model_len"] == 4096
    assert arguments["llm"]["on_cold"] == "wait"
    assert "retrieval" not in arguments
    config = spec["rayClusterConfig"]
    images = [config["headGroupSpec"], *config["workerGroupSpecs"]]
    assert [each["template"]["spec"]["containers"][0]["image"] for each in images] == [
        "registry:5000/mine:2", "registry:5000/mine:2", "registry:5000/gpu@sha256:ab",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (("--set", "llm.modell=x"), "llm.modell"),
        (("--set", 'api.keys=["k"]'), "anchorage-api"),
        (("--set", "index.catalog_url=postgresql://u:p@h/d"), "anchorage-index"),
        (("--set", "top_k"), "GROUP.FIELD=VALUE"),
        (("--with", "mivlus"), "There is no component"),
        (("--overlay", "ekz"), "There is no overlay"),
        (("--namespace", "Team_A"), "lower-case"),
    ],
)
def test_what_is_misspelt_is_said(cli: Cli, option: tuple[str, str], told: str) -> None:
    """With what there is instead."""
    with pytest.raises(ConfigurationError, match=told):
        cli("deploy", "--render", "--overlay", "local", *option)


def test_an_overlay_of_ones_own(cli: Cli, tmp_path: Path, server: Server) -> None:
    """A folder; in another namespace, host names follow."""
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mine}\ndata: {url: 'http://milvus.anchorage.svc:19530'}\n"
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "kustomization.yaml").write_text("resources: [mine.yaml]\n")
    (thing,) = rendered(cli, "--overlay", str(tmp_path), "--namespace", "team")
    assert thing["metadata"]["namespace"] == "team"
    assert thing["data"]["url"] == "http://milvus.team.svc:19530"


def test_what_names_the_namespace_follows_it(cli: Cli, tmp_path: Path) -> None:
    """Queues and peers that choose by a namespace's name, the subjects of rights, what Prometheus looks through."""
    things = rendered(cli, "--overlay", "onprem", "--with", "kueue", "--with", "monitoring", "--namespace", "team")
    (queue,) = [thing for thing in things if thing["kind"] == "ClusterQueue"]
    assert queue["spec"]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "team"}
    assert queue["metadata"]["name"] == "anchorage-ingestion"
    subjects = [each for thing in things if thing["kind"] == "RoleBinding" for each in thing["subjects"]]
    assert {each["namespace"] for each in subjects} == {"team"}
    own = """
    - {apiVersion: monitoring.coreos.com/v1, kind: PodMonitor, metadata: {name: mine},
       spec: {namespaceSelector: {matchNames: [anchorage, other]}}}
    - {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: mine}, spec: {ingress: [{from: [
       {namespaceSelector: {matchExpressions: [
         {key: kubernetes.io/metadata.name, operator: In, values: [other, anchorage]},
         {key: team, operator: In, values: [anchorage]}]}}]}]}}
    """
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump_all(yaml.safe_load(own)))
    (tmp_path / "kustomization.yaml").write_text("resources: [mine.yaml]\n")
    mine = {thing["kind"]: thing for thing in rendered(cli, "--overlay", str(tmp_path), "--namespace", "team")}
    assert mine["PodMonitor"]["spec"]["namespaceSelector"]["matchNames"] == ["team", "other"]
    (peer,) = mine["NetworkPolicy"]["spec"]["ingress"][0]["from"]
    named, labelled = peer["namespaceSelector"]["matchExpressions"]
    assert (named["values"], labelled["values"]) == (["other", "team"], ["anchorage"])


def test_a_missing_kubectl_is_said(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """With where it comes from."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match="kubectl is needed"):
        cli("deploy", "--render", "--overlay", "local")


def test_what_goes_with_a_model_is_told_it(cli: Cli) -> None:
    """Ingestion embeds as serving does; the weights that are fetched are those of the model."""
    things = rendered(cli, "--overlay", "onprem", "--with", "weights-shared-volume", "--model", "org/m",
                      "--set", "embedder.model=org/e")  # fmt: skip
    told = {f"{thing['kind']}/{thing['metadata']['name']}": thing for thing in things}
    assert told["ConfigMap/anchorage-ingest"]["data"]["embedding-model"] == "org/e"
    (job,) = [thing for thing in things if thing["kind"] == "Job"]
    assert {"name": "MODEL", "value": "org/m"} in job["spec"]["template"]["spec"]["containers"][0]["env"]


def test_a_longer_answer_is_a_longer_goodbye(cli: Cli) -> None:
    """Pods' grace, their drain and the old cluster's time follow the deadline, under a new name for the variables."""
    spec = ray_service(things := rendered(cli, "--overlay", "onprem", "--set", "api.deadline_s=900"))["spec"]
    assert spec["rayClusterDeletionDelaySeconds"] > 900
    for group in spec["rayClusterConfig"]["workerGroupSpecs"]:
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] == 960
    (variables,) = [thing for thing in things if thing["metadata"]["name"].startswith("anchorage-settings-")]
    assert variables["data"]["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == "930"
    head = spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert head["envFrom"] == [{"configMapRef": {"name": variables["metadata"]["name"]}}]


def test_groups_hold_what_settings_ask_for(cli: Cli) -> None:
    """More replicas are more pods; a model on a laptop's overlay leaves its Api as small as it is."""
    raised = ("--set", "api.max_replicas=30", "--set", "llm.max_replicas=9")
    config = ray_service(rendered(cli, "--overlay", "onprem", *raised))["spec"]["rayClusterConfig"]
    most = {group["groupName"]: group["maxReplicas"] for group in config["workerGroupSpecs"]}
    assert most["gpu"] == 9
    assert most["cpu"] * 2 >= 30 * 0.5
    for model in ((), ("--model", "m")):
        text = ray_service(rendered(cli, "--overlay", "local", *model))["spec"]["serveConfigV2"]
        assert yaml.safe_load(text)["applications"][0]["args"]["api"]["max_replicas"] == 2
