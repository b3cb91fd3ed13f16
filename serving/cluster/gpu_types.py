"""GPU types by the names that `anchorage plan` has for them, and how each kind of cluster is asked for one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from serving.cluster.fit import GPU, GPU_GROUP, worker_groups
from serving.cluster.objects import Json
from serving.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Label:
    """Of nodes: its key, and its values by our name of the type."""

    key: str
    values: Mapping[str, tuple[str, ...]]

    def pick(self, gpu: str) -> tuple[str, ...]:
        """Raises ConfigurationError with the types that there are."""
        found = {name.lower(): values for name, values in self.values.items()}.get(gpu.lower())
        if found is None:
            raise ConfigurationError(
                f"--gpu {gpu}: these manifests do not know this type (label {self.key}). They know: "
                f"{', '.join(self.values)}."
            )
        return found


#: Karpenter for AWS: the name that EC2 has, in lower case (karpenter.sh, reference/instance-types).
AWS = Label(
    "karpenter.k8s.aws/instance-gpu-name",
    {
        "T4": ("t4",),
        "L4": ("l4",),
        "A10G": ("a10g",),
        "L40S": ("l40s",),
        "A100-40": ("a100",),
        "A100-80": ("a100",),
        "H100": ("h100",),
        "H200": ("h200",),
        "B200": ("b200",),
    },
)
#: MiB of one GPU, where the name does not tell two types apart.
_AWS_MEMORY = Label("karpenter.k8s.aws/instance-gpu-memory", {"A100-40": ("40960",), "A100-80": ("81920",)})
#: AKS: what the machine's size is called after (NC24ads_A100_v4). Those with A100 in their names have 80 GB.
AZURE = Label(
    "karpenter.azure.com/sku-gpu-name", {"T4": ("T4",), "A100-80": ("A100",), "H100": ("H100",), "H200": ("H200",)}
)
#: GKE, "GPU platforms".
GKE = Label(
    "cloud.google.com/gke-accelerator",
    {
        "T4": ("nvidia-tesla-t4",),
        "L4": ("nvidia-l4",),
        "A100-40": ("nvidia-tesla-a100",),
        "A100-80": ("nvidia-a100-80gb",),
        "H100": ("nvidia-h100-80gb",),
        "H200": ("nvidia-h200-141gb",),
        "B200": ("nvidia-b200",),
    },
)
#: GPU feature discovery: the driver's name of the product, with `-` for blanks.
PRODUCT = Label(
    "nvidia.com/gpu.product",
    {
        "T4": ("Tesla-T4",),
        "L4": ("NVIDIA-L4",),
        "A10G": ("NVIDIA-A10G",),
        "L40S": ("NVIDIA-L40S",),
        "A100-40": ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"),
        "A100-80": ("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe"),
        "H100": ("NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe", "NVIDIA-H100-NVL"),
        "H200": ("NVIDIA-H200", "NVIDIA-H200-NVL"),
        "B200": ("NVIDIA-B200",),
    },
)
PRESENT = "nvidia.com/gpu.present"


def choose(things: Sequence[Json], gpu: str) -> None:
    """Changes `things` so that only nodes with this type come, or are taken. Raises ConfigurationError."""
    asked = [
        (requirements, label)
        for requirements in _pools(things)
        for label in (AWS, AZURE)
        if any(one.get("key") == label.key for one in requirements)
    ]
    for requirements, label in asked:
        _require(requirements, label.key, label.pick(gpu))
        if label is AWS and gpu.upper() in _AWS_MEMORY.values:
            _require(requirements, _AWS_MEMORY.key, _AWS_MEMORY.pick(gpu))
    if asked:
        return
    # Ingestion's pods as well: the nodes that they ask for are the same.
    labelled = [spec["nodeSelector"] for spec in _pods(things) if GKE.key in (spec.get("nodeSelector") or {})]
    for selected in labelled:
        selected[GKE.key] = GKE.pick(gpu)[0]
    if labelled:
        return
    for spec in _pods(things):
        selected = spec.get("nodeSelector") or {}
        if PRESENT in selected and "anchorage.dev/pool" not in selected:
            terms = [{"matchExpressions": [{"key": PRODUCT.key, "operator": "In", "values": [*PRODUCT.pick(gpu)]}]}]
            required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
            spec.setdefault("affinity", {})["nodeAffinity"] = required
            labelled.append(selected)
    if labelled:
        return
    raise ConfigurationError(
        f"--gpu {gpu}: these manifests have nothing by which a GPU type is chosen. The overlays eks, aks, gke and "
        "onprem have; with `cluster-autoscaler`, your node group decides which GPUs come: leave --gpu out."
    )


def may_come(things: Sequence[Json]) -> tuple[str, ...]:
    """Our names of the types that the manifests let come; none where they do not say."""
    for requirements in _pools(things):
        for label in (AWS, AZURE):
            if values := _required(requirements, label.key):
                memory = _required(requirements, _AWS_MEMORY.key)
                return tuple(
                    name
                    for name, known in label.values.items()
                    if set(known) & values
                    and (not memory or name not in _AWS_MEMORY.values or set(_AWS_MEMORY.values[name]) & memory)
                )
    for spec in _pods(things):
        told = {str((spec.get("nodeSelector") or {}).get(GKE.key))}
        affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
            "requiredDuringSchedulingIgnoredDuringExecution"
        ) or {}
        products = {
            value
            for term in affinity.get("nodeSelectorTerms") or []
            for one in term.get("matchExpressions") or []
            if one.get("key") == PRODUCT.key
            for value in one.get("values") or []
        }
        for label, values in ((GKE, told), (PRODUCT, products)):
            if found := tuple(name for name, known in label.values.items() if set(known) & values):
                return found
    return ()


def _required(requirements: Sequence[Json], key: str) -> set[str]:
    return {
        str(value)
        for one in requirements
        if one.get("key") == key and one.get("operator") == "In"
        for value in one.get("values") or []
    }


def _require(requirements: list[Json], key: str, values: Sequence[str]) -> None:
    requirements[:] = [one for one in requirements if one.get("key") != key]
    requirements.append({"key": key, "operator": "In", "values": [*values]})


def _pools(things: Sequence[Json]) -> Iterator[list[Json]]:
    """Requirements of each NodePool for GPUs."""
    for thing in things:
        if thing.get("kind") == "NodePool" and GPU in ((thing.get("spec") or {}).get("limits") or {}):
            yield thing["spec"]["template"]["spec"].setdefault("requirements", [])


def _pods(things: Sequence[Json]) -> Iterator[Json]:
    """Of every worker group, the LLM's first."""
    found = []
    for thing in things:
        found += [(group.get("groupName") != GPU_GROUP, group) for group in worker_groups(thing)]
    for _, group in sorted(found, key=lambda each: each[0]):
        yield group["template"]["spec"]
