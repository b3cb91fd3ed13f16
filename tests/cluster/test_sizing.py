"""How `anchorage deploy` sizes the GPU pods for a model, chooses their GPUs, and refuses what could not work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.cluster.quantities import number
from serving.cluster.sizing import size
from serving.errors import ConfigurationError
from tests.cluster.apiserver import Server
from tests.cluster.conftest import Cli
from tests.cluster.rendered import ray_service
from tests.planning.published import LLAMA_8B, LLAMA_70B

GIB = 1024**3
SHORT = ("--set", "llm.engine_args.max_model_len=8192")


@pytest.fixture
def large(tmp_path: Path) -> str:
    """A folder with the config.json of a model of 70 B: 131.4 GiB of weights."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B))
    return str(tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> str:
    """Of 8 B: 15 GiB."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    return str(tmp_path)


def rendered(cli: Cli, *options: str) -> list[dict[str, Any]]:
    return [thing for thing in yaml.safe_load_all(cli("deploy", "--render", *options).output) if thing]


def group(things: list[dict[str, Any]]) -> dict[str, Any]:
    groups = ray_service(things)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return next(each for each in groups if each["groupName"] == "gpu")


def llm(things: list[dict[str, Any]]) -> dict[str, Any]:
    arguments = yaml.safe_load(ray_service(things)["spec"]["serveConfigV2"])["applications"][0]["args"]
    return dict(arguments["llm"])


def sizes(things: list[dict[str, Any]]) -> dict[str, float]:
    """CPUs and GiB of a GPU pod."""
    spec = group(things)["template"]["spec"]
    told = {kind: spec["containers"][0]["resources"][kind] for kind in ("requests", "limits")}
    found = {f"{kind}.{name}": number(amount) for kind, each in told.items() for name, amount in each.items()}
    found |= {each["name"]: number(each["emptyDir"]["sizeLimit"]) for each in spec["volumes"] if "emptyDir" in each}
    return {name: amount if amount < GIB else amount / GIB for name, amount in found.items()}


def test_the_group_is_written_for_one_gpu_and_16_gib(cli: Cli) -> None:
    """What the component has is what the formula says."""
    wanted = size(1, 16 * GIB)
    told = sizes(rendered(cli, "--overlay", "eks"))
    assert (told["requests.cpu"], told["limits.memory"]) == (wanted.cpus, wanted.memory)
    assert (told["shm"], told["scratch"]) == (wanted.shm, wanted.scratch)
    assert (told["requests.ephemeral-storage"], told["limits.ephemeral-storage"]) == (wanted.disk, wanted.disk_most)
    assert size(1, None) == wanted


def test_a_large_model_has_memory_and_disk_for_its_weights(cli: Cli, large: str) -> None:
    """Once in memory, and on the disk with room; processors and /dev/shm by GPUs."""
    told = sizes(rendered(cli, "--overlay", "eks", "--model", large, "--gpus", "4", "--gpu", "L40S", *SHORT))
    assert told["limits.memory"] == told["requests.memory"] == 132 + 4 + 16
    assert (told["limits.cpu"], told["requests.cpu"], told["shm"]) == (10, 10, 10)
    # A folder is on a volume: only what is compiled is on the disk.
    assert told["scratch"] == 60
    wanted = size(4, 131.4 * GIB)
    assert (wanted.scratch, wanted.disk, wanted.disk_most) == (205, 156, 225)


def test_without_a_config_gpus_are_the_size(cli: Cli) -> None:
    """16 GiB of weights for each; nothing is made smaller for a hub that is away; a shared volume is no disk."""
    told = sizes(rendered(cli, "--overlay", "eks", "--model", "org/away", "--gpus", "4"))
    assert (told["limits.memory"], told["scratch"], told["requests.ephemeral-storage"]) == (84, 120, 88)
    shared = sizes(
        rendered(cli, "--overlay", "eks", "--with", "weights-shared-volume", "--model", "org/away", "--gpus", "4")
    )
    assert (shared["limits.memory"], shared["scratch"], shared["requests.ephemeral-storage"]) == (84, 60, 40)
    assert sizes(rendered(cli, "--overlay", "eks", "--max-replicas", "2")) == sizes(rendered(cli, "--overlay", "eks"))


def test_claims_count_the_same_processors(cli: Cli) -> None:
    """Ray has them from the group where the GPU comes by a claim."""
    things = rendered(cli, "--overlay", "gke", "--with", "dra", "--model", "org/away", "--gpus", "2")
    assert group(things)["resources"] == {"CPU": "6", "GPU": "2"}
    assert sizes(things)["limits.cpu"] == 6


def test_what_cannot_fit_is_refused(cli: Cli, large: str, server: Server) -> None:
    """Too many weights, or too long a context for the rest; where some types do, which ones."""
    with pytest.raises(ConfigurationError, match=r"weights of 131 GiB leave no KV cache.*More --gpus"):
        cli("deploy", "--render", "--overlay", "eks", "--model", large, "--gpus", "1")
    done = cli("deploy", "--overlay", "eks", "--model", large, "--gpus", "2", "--gpu", "L40S", "--dry-run", check=False)
    assert done.code == 1
    assert "does not fit on its GPUs" in done.text
    assert server.objects == {}


def test_which_gpus_it_fits_on_is_said(cli: Cli, large: str) -> None:
    """A node pool may bring smaller ones."""
    done = cli("deploy", "--render", "--overlay", "eks", "--model", large, "--gpus", "4", *SHORT)
    assert "does not fit on every GPU that may come (L4: " in done.text
    assert "--gpu L40S." in done.text


def test_a_context_that_is_too_long_says_a_shorter_one(cli: Cli, small: str) -> None:
    """The model's own context needs more cache than the rest of one GPU."""
    config = json.loads((Path(small) / "config.json").read_text())
    (Path(small) / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 131072}))
    with pytest.raises(ConfigurationError, match=r"--set llm.engine_args.max_model_len=8192"):
        cli("deploy", "--render", "--overlay", "gke", "--model", small)
    cli("deploy", "--render", "--overlay", "gke", "--model", small, *SHORT)


def test_what_could_not_be_looked_at_is_a_warning(cli: Cli, small: str) -> None:
    """A hub that is away, and a folder that pods do not have."""
    text = cli("deploy", "--overlay", "local", "--model", "org/away", "--dry-run").text
    assert "Whether org/away fits its GPUs and its pods' memory and disk could not be checked" in text
    assert "--model ./FOLDER" not in text
    text = cli("deploy", "--overlay", "local", "--model", small, "--dry-run").text
    assert "is a folder on this machine" in text
    assert "could not be checked" not in text


def test_a_disk_that_is_too_small_is_told(cli: Cli, server: Server) -> None:
    """Karpenter would start no node, and the pod would wait without a word."""
    disk = {"blockDeviceMappings": [{"ebs": {"volumeSize": "100Gi"}}]}
    node_class = {"apiVersion": "karpenter.k8s.aws/v1", "kind": "EC2NodeClass", "metadata": {"name": "anchorage-gpu"}}
    server.put({**node_class, "spec": disk})
    command = ("deploy", "--overlay", "eks", "--dry-run", "--model", "org/away")
    assert "EC2NodeClass" not in cli(*command, check=False).text
    text = " ".join(cli(*command, "--gpus", "8", check=False).text.split())
    assert "A GPU pod asks for 152 GiB of disk; nodes of the EC2NodeClass anchorage-gpu have 100 GiB" in text


@pytest.mark.parametrize(
    ("overlay", "gpu", "key", "values"),
    [
        ("eks", "h100", "karpenter.k8s.aws/instance-gpu-name", ["h100"]),
        ("eks", "A100-80", "karpenter.k8s.aws/instance-gpu-memory", ["81920"]),
        ("aks", "A100-80", "karpenter.azure.com/sku-gpu-name", ["A100"]),
    ],
)
def test_a_gpu_type_is_a_requirement_of_the_pool(cli: Cli, overlay: str, gpu: str, key: str, values: list[str]) -> None:
    """Once, in place of the overlay's list."""
    things = rendered(cli, "--overlay", overlay, "--gpu", gpu)
    (pool,) = [each for each in things if each["kind"] == "NodePool" and each["metadata"]["name"] == "anchorage-gpu"]
    named = [each for each in pool["spec"]["template"]["spec"]["requirements"] if each["key"] == key]
    assert named == [{"key": key, "operator": "In", "values": values}]


def test_a_gpu_type_is_a_label_of_nodes(cli: Cli) -> None:
    """GKE's own, and on nodes that are there the product's."""
    selected = group(rendered(cli, "--overlay", "gke", "--gpu", "A100-80"))["template"]["spec"]["nodeSelector"]
    assert selected["cloud.google.com/gke-accelerator"] == "nvidia-a100-80gb"
    spec = group(rendered(cli, "--overlay", "onprem", "--gpu", "L40S"))["template"]["spec"]
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L40S"]}]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--overlay", "aks", "--gpu", "L4"), "They know: T4, A100-80, H100, H200"),
        (("--overlay", "local", "--model", "m", "--gpu", "L4"), "nothing by which a GPU type is chosen"),
        (("--overlay", "onprem", "--with", "cluster-autoscaler", "--gpu", "L4"), "your node group decides"),
        (
            ("--overlay", "eks", "--with", "weights-in-image", "--model", "org/m"),
            "--model /models --set llm.name=org/m",
        ),
        (("--overlay", "eks", "--with", "weights-object-storage", "--model", "org/m"), "--model s3://BUCKET/FOLDER"),
        (("--overlay", "eks", "--with", "weights-object-storage", "--model", "s3://b/m"), "engine_args.tokenizer="),
    ],
)
def test_what_could_not_work_is_refused(cli: Cli, options: tuple[str, ...], told: str) -> None:
    """With what to say instead."""
    with pytest.raises(ConfigurationError, match=told):
        cli("deploy", "--render", *options)


def test_a_bucket_keeps_how_it_is_read(cli: Cli) -> None:
    """Another bucket is the same model; another model has its own tokenizer; a plan's arguments take nothing away."""
    options = ("--overlay", "eks", "--with", "weights-object-storage", "--model")
    same = llm(rendered(cli, *options, "s3://mine/Qwen3-8B", "--gpus", "2"))
    assert (same["model"], same["name"]) == ("s3://mine/Qwen3-8B", "Qwen/Qwen3-8B")
    assert same["engine_args"] == {
        "max_model_len": 16384, "tokenizer": "Qwen/Qwen3-8B", "load_format": "runai_streamer", "tensor_parallel_size": 2
    }  # fmt: skip
    other = llm(rendered(cli, *options, "s3://mine/m", "--set", "llm.engine_args.tokenizer=org/m"))
    assert other["engine_args"] == {"tokenizer": "org/m", "load_format": "runai_streamer"}
    assert "name" not in other
    planned = llm(rendered(cli, *options, "Qwen/Qwen3-8B", "--set", 'llm.engine_args={"max_model_len": 4096}'))
    assert planned["model"] == "s3://anchorage-models/Qwen3-8B"
    assert (planned["engine_args"]["load_format"], planned["engine_args"]["max_model_len"]) == ("runai_streamer", 4096)


def test_an_image_is_named_by_its_folder(cli: Cli) -> None:
    """What is in it is the user's to say."""
    told = ("--set", "llm.name=org/m", "--set", "llm.engine_args.tokenizer=org/m")
    found = llm(rendered(cli, "--overlay", "eks", "--with", "weights-in-image", "--model", "/models", *told))
    assert (found["model"], found["name"], found["engine_args"]["tokenizer"]) == ("/models", "org/m", "org/m")
