"""The lexical support check tells supported sentences from unsupported ones."""

from __future__ import annotations

import pytest

from serving.index.types import Passage
from serving.support import SUPPORTED, evidence, support

DRAIN = """You can use `kubectl drain` to safely evict all of your pods from a node before you perform maintenance on
the node (e.g. kernel upgrade, hardware maintenance, etc.). Safe evictions allow the pod's containers to gracefully
terminate and will respect the PodDisruptionBudgets you have specified. By default it ignores system pods."""
NODEPORT = """If you set the `type` field to `NodePort`, the Kubernetes control plane allocates a port from a range
specified by `--service-node-port-range` flag (default: 30000-32767). Each node proxies that port into your Service."""
PROBES = """The kubelet uses liveness probes to know when to restart a container. For example, liveness probes could
catch a deadlock, where an application is running, but unable to make progress. The kubelet uses readiness probes to
know when a container is ready to start accepting traffic. A Pod is ready when all of its containers are."""
MEMORY = """If a Container exceeds its memory limit, it might be terminated. If it is restartable, the kubelet will
restart it, as with any other type of runtime failure. The default CPU period is 100 ms in version 1.21."""

SUPPORTED_PAIRS = [
    ("Use kubectl drain to evict the pods from a node before maintenance.", DRAIN),
    ("Draining respects PodDisruptionBudgets and lets containers terminate gracefully.", DRAIN),
    ("Some system pods are ignored by kubectl drain by default.", DRAIN),
    ("NodePort services get a port from the range 30000-32767 by default.", NODEPORT),
    ("The control plane allocates the port for a NodePort service.", NODEPORT),
    ("Every node proxies the port to the Service.", NODEPORT),
    ("A liveness probe tells the kubelet when to restart a container.", PROBES),
    ("Readiness probes show when a container can accept traffic.", PROBES),
    ("Liveness probes can catch a deadlock.", PROBES),
    ("A container that exceeds its memory limit may be terminated.", MEMORY),
    ("The kubelet restarts restartable containers after such a failure.", MEMORY),
    ("In v1.21 the CPU period is 100ms by default.", MEMORY),
]
UNSUPPORTED_PAIRS = [
    ("Use kubectl drain to evict the pods from a node before maintenance.", PROBES),
    ("Kubernetes deletes namespaces together with their quotas.", DRAIN),
    ("A Deployment manages ReplicaSets and rolls out new versions of an application.", PROBES),
    ("NodePort services get a port from the range 20000-22767 by default.", NODEPORT),
    ("Network policies restrict which pods may talk to a service in other namespaces.", NODEPORT),
    ("A load balancer distributes external traffic to all healthy instances.", NODEPORT),
    ("Startup probes delay the other two kinds for slow legacy programs.", PROBES),
    ("The scheduler places pods on nodes by their resource requests.", MEMORY),
    ("Secrets are stored unencrypted in etcd unless encryption at rest is configured.", MEMORY),
    ("In v1.22 the CPU period is 100ms by default.", MEMORY),
    ("The kubelet waits 300 seconds before it restarts a container.", MEMORY),
    ("Yes.", DRAIN),
]


def _support(claim: str, text: str) -> float:
    return support(claim, evidence(Passage("c", "u", "", text, 0, len(text), (), 0, 0.5)))


@pytest.mark.parametrize(("claim", "text"), SUPPORTED_PAIRS)
def test_a_rephrased_sentence_is_supported(claim: str, text: str) -> None:
    """Sentences as an LLM would rephrase the passage."""
    assert _support(claim, text) >= SUPPORTED


@pytest.mark.parametrize(("claim", "text"), UNSUPPORTED_PAIRS)
def test_a_sentence_from_elsewhere_is_not_supported(claim: str, text: str) -> None:
    """Sentences of a neighbouring subject, and right sentences with a wrong number."""
    assert _support(claim, text) < SUPPORTED


def test_title_and_headings_are_evidence() -> None:
    """A sentence may name its subject where the passage leaves that to its heading."""
    passage = Passage("c", "u", "Horizontal Pod Autoscaler", "It scales.", 0, 9, ("Algorithm",), 0, 0.5)
    assert support("The horizontal pod autoscaler scales by an algorithm.", evidence(passage)) >= SUPPORTED


def test_numbers_are_compared_without_separators_and_markup() -> None:
    """Thousands separators, list ordinals and digits inside names do not count as numbers that are missing."""
    assert _support("2. The limit of k8s pods is 1,000 pods.", "The limit is 1000 pods in k8s.") >= SUPPORTED
