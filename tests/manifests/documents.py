"""Rendered manifests, and the pods that will be made of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Document = dict[str, Any]
Role = Literal["head", "worker", "submitter", "plain", "milvus"]

#: The device plugin's resource, and the key of the taint on GPU nodes.
GPU = "nvidia.com/gpu"
_WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job")
_MILVUS_PARTS = {
    "standalone": ("standalone",),
    "cluster": ("proxy", "mixCoord", "dataNode", "queryNode", "streamingNode"),
}
_MILVUS_USER = {"runAsNonRoot": True, "runAsUser": 1000}
_MILVUS_CONTAINER = ("image", "env", "resources", "volumeMounts", "securityContext")
_MILVUS_POD = (
    "affinity",
    "hostNetwork",
    "nodeSelector",
    "priorityClassName",
    "serviceAccountName",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
)
#: What a part of a Milvus resource takes from all of them together, where it says nothing itself.
_MILVUS_SHARED = (*_MILVUS_CONTAINER, *_MILVUS_POD, "podLabels")
_ETCD_PORTS = [{"containerPort": 2379, "name": "client"}, {"containerPort": 2380, "name": "peer"}]
#: The init container that the operator adds (milvus-operator v1.3.8, renderInitContainer). What a component's own of
#: that name says about these is overwritten, its securityContext above all.
_MILVUS_CONFIG = {
    "name": "config",
    "image": "milvusdb/milvus-operator:v1.3.8",
    "command": ["/bin/sh"],
    "args": ["/init.sh"],
    "securityContext": _MILVUS_USER,
}
#: Ray's autoscaler, which KubeRay adds to the head: its container where `autoscalerOptions` say nothing
#: (KubeRay v1.7.0, BuildAutoscalerContainer).
_AUTOSCALER = {
    "name": "autoscaler",
    "resources": {
        "requests": {"cpu": "500m", "memory": "512Mi"},
        "limits": {"cpu": "500m", "memory": "512Mi"},
    },
}


@dataclass(frozen=True)
class Rendered:
    """One set: an overlay, with components or without."""

    name: str
    documents: tuple[Document, ...]

    def of(self, *kinds: str) -> list[Document]:
        """All of these kinds, in their order."""
        return [document for document in self.documents if document["kind"] in kinds]

    def named(self, kind: str, name: str) -> Document | None:
        return next((one for one in self.of(kind) if one["metadata"]["name"] == name), None)

    def pods(self) -> tuple[PodTemplate, ...]:
        return self._pods

    @cached_property
    def _pods(self) -> tuple[PodTemplate, ...]:
        return tuple(pod for document in self.documents for pod in pods(document))


@dataclass(frozen=True)
class PodTemplate:
    """Where a pod comes from. `group`: the Ray group that it stands in, else empty. `template` is a copy."""

    document: Document
    path: str
    role: Role
    template: Document
    group: Mapping[str, Any]

    @property
    def spec(self) -> Document:
        found: Document = self.template["spec"]
        return found

    @property
    def labels(self) -> dict[str, str]:
        """With those that KubeRay puts on, as services and policies select by them (v1.7.0, labelPod)."""
        own = dict(self.template.get("metadata", {}).get("labels") or {})
        if self.role not in ("head", "worker"):
            return own
        group = "headgroup" if self.role == "head" else self.group["groupName"]
        own |= self.group.get("labels") or {}
        added = {
            "ray.io/node-type": self.role,
            "ray.io/group": group,
            "ray.io/is-ray-node": "yes",
            "ray.io/cluster": f"{self.document['metadata']['name']}-00000",
            "app.kubernetes.io/created-by": "kuberay-operator",
        }
        if self.document["kind"] == "RayService":
            alone = self.role == "head" and self.document["spec"].get("excludeHeadPodFromServeSvc")
            added["ray.io/serve"] = "false" if alone else "true"
        return {"app.kubernetes.io/name": "kuberay", **own, **added}

    @property
    def gpus(self) -> float:
        """GPUs that one pod gets: by limits, or by a claim, which the group's `resources` tell Ray."""
        limits = [(one.get("resources") or {}).get("limits") or {} for one in self.spec.get("containers") or ()]
        by_limit = sum(float(one.get(GPU, 0)) for one in limits)
        return by_limit or float((self.group.get("resources") or {}).get("GPU", 0))

    @property
    def where(self) -> str:
        return f"{title(self.document)}: {self.path}"


def title(document: Mapping[str, Any]) -> str:
    """Kind/name, as every message begins."""
    return f"{document.get('kind', '?')}/{(document.get('metadata') or {}).get('name', '?')}"


def containers(spec: Mapping[str, Any]) -> Iterator[Document]:
    """All of a pod's spec."""
    yield from (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))


def pods(document: Document) -> Iterator[PodTemplate]:
    """Each pod template of it, those in custom resources with what the operators add."""
    kind, spec = document["kind"], document.get("spec") or {}
    if kind == "Pod":
        yield PodTemplate(document, "", "plain", {"metadata": document["metadata"], "spec": spec}, {})
    elif kind in _WORKLOADS:
        pod = _plain(document, "spec.template", spec.get("template"))
        claims = spec.get("volumeClaimTemplates") or ()
        pod.spec.setdefault("volumes", []).extend(map(_claimed, claims))
        yield pod
    elif kind == "CronJob":
        template = ((spec.get("jobTemplate") or {}).get("spec") or {}).get("template")
        yield _plain(document, "spec.jobTemplate.spec.template", template)
    elif kind == "PodTemplate":
        yield _plain(document, "template", document.get("template"))
    elif kind == "RayService":
        yield from _ray(document, "spec.rayClusterConfig", spec.get("rayClusterConfig") or {})
    elif kind == "RayCluster":
        yield from _ray(document, "spec", spec)
    elif kind == "RayJob":
        if spec.get("rayClusterSpec"):
            yield from _ray(document, "spec.rayClusterSpec", spec["rayClusterSpec"])
        if spec.get("submitterPodTemplate"):
            yield _plain(document, "spec.submitterPodTemplate", spec["submitterPodTemplate"], role="submitter")
    elif kind == "Milvus":
        yield from _milvus(document, spec)


def ray_cluster(document: Document) -> Document | None:
    """The spec of the Ray cluster in it, if it makes one."""
    key = {"RayService": "rayClusterConfig", "RayJob": "rayClusterSpec"}.get(document["kind"])
    if key:
        found: Document | None = document["spec"].get(key)
        return found
    return document["spec"] if document["kind"] == "RayCluster" else None


def _plain(
    document: Document, path: str, template: Any, *, role: Role = "plain", group: Mapping[str, Any] | None = None
) -> PodTemplate:
    whole = copy.deepcopy(template or {})
    whole.setdefault("spec", {})
    return PodTemplate(document, path, role, whole, group or {})


def _claimed(claim: Document) -> Document:
    """The volume that a StatefulSet makes of a claim's template, as a pod would say it."""
    return {"name": claim["metadata"]["name"], "ephemeral": {"volumeClaimTemplate": {"spec": claim["spec"]}}}


def _ray(document: Document, path: str, cluster: Mapping[str, Any]) -> Iterator[PodTemplate]:
    head = cluster.get("headGroupSpec") or {}
    pod = _plain(document, f"{path}.headGroupSpec.template", head.get("template"), role="head", group=head)
    if cluster.get("enableInTreeAutoscaling"):
        options = cluster.get("autoscalerOptions") or {}
        named = ("resources", "securityContext", "env", "envFrom", "image", "imagePullPolicy", "volumeMounts")
        own = {name: options[name] for name in named if name in options}
        image = next((one.get("image") for one in pod.spec.get("containers", ())), None)
        pod.spec.setdefault("containers", []).append({**copy.deepcopy(_AUTOSCALER), "image": image, **own})
    yield pod
    for i, group in enumerate(cluster.get("workerGroupSpecs") or ()):
        yield _plain(
            document, f"{path}.workerGroupSpecs.{i}.template", group.get("template"), role="worker", group=group
        )


def _milvus(document: Document, spec: Mapping[str, Any]) -> Iterator[PodTemplate]:
    """One for each component that its mode starts, as the operator builds it (v1.3.8, updatePodTemplate)."""
    shared = spec.get("components") or {}
    for part in _MILVUS_PARTS[spec.get("mode") or "standalone"]:
        own = {**{name: shared[name] for name in _MILVUS_SHARED if name in shared}, **(shared.get(part) or {})}
        container = {
            "name": part.lower(),
            **{name: own[name] for name in _MILVUS_CONTAINER if name in own},
        }
        inits = {one["name"]: one for one in (_MILVUS_CONFIG, *(own.get("initContainers") or ()))}
        inits["config"] = {**inits["config"], **_MILVUS_CONFIG}
        template = {
            "metadata": {"labels": {**(own.get("podLabels") or {}), **_milvus_labels(document, part)}},
            "spec": {
                **{name: own[name] for name in _MILVUS_POD if name in own},
                **(
                    {"securityContext": {"runAsNonRoot": True, "runAsUser": 1000}} if shared.get("runAsNonRoot") else {}
                ),
                "initContainers": list(inits.values()),
                "containers": [container, *(own.get("sidecars") or ())],
            },
        }
        yield _plain(document, f"spec.components.{part}", template, role="milvus")
    yield from _etcd(document, spec)


def _etcd(document: Document, spec: Mapping[str, Any]) -> Iterator[PodTemplate]:
    """By the chart (Bitnami's) that the operator has in it: its values say how the pod is."""
    chart = ((spec.get("dependencies") or {}).get("etcd") or {}).get("inCluster")
    if chart is None:
        return
    values = chart.get("values") or {}
    pod, container = (_enabled(values.get(f"{one}SecurityContext")) for one in ("pod", "container"))
    labels = {"app.kubernetes.io/name": "etcd", "app.kubernetes.io/instance": f"{document['metadata']['name']}-etcd"}
    resources = values.get("resources") or {}
    etcd = {"name": "etcd", "securityContext": container, "resources": resources, "ports": _ETCD_PORTS}
    template = {
        "metadata": {"labels": {"app.kubernetes.io/component": "etcd", **(values.get("podLabels") or {}), **labels}},
        "spec": {"securityContext": pod, "containers": [etcd]},
    }
    yield _plain(document, "spec.dependencies.etcd.inCluster", template, role="milvus")


def _enabled(context: Mapping[str, Any] | None) -> dict[str, Any]:
    """A security context of the chart, if it is on."""
    given = dict(context or {})
    return given if given.pop("enabled", True) else {}


def _milvus_labels(document: Document, part: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/instance": document["metadata"]["name"],
        "app.kubernetes.io/name": "milvus",
        "app.kubernetes.io/component": part.lower(),
        **({"milvus.io/service": "true"} if part in ("standalone", "proxy") else {}),
    }
