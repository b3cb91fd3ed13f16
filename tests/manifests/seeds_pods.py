"""Faults in pods and in Serve configs."""

from __future__ import annotations

from typing import Any

from tests.manifests.seeding import MILVUS, OF_CPU, OF_GPU, Seed, Set, at, put

PODS = [
    Seed("pods", "unknown-field", at(f"{OF_CPU}.resourcs", {}), "'resourcs' was unexpected"),
    Seed("pods", "name", at(f"{OF_CPU}.name", "Ray_Worker"), "'Ray_Worker' is no DNS label"),
    Seed("pods", "pull-policy", at(f"{OF_GPU}.imagePullPolicy", "Often"), "'Often' is none of"),
    Seed(
        "pods", "no-memory", lambda s: s.container("cpu")["resources"]["limits"].pop("memory"), "limits: memory missing"
    ),
    Seed("pods", "overcommitted-gpu", lambda s: _gpus(s, limits="2"), "cannot be overcommitted"),
    Seed("pods", "no-probe", lambda s: s.container("gpu").pop("readinessProbe"), "readinessProbe missing"),
    Seed(
        "pods",
        "same-probe",
        lambda s: s.container("cpu").update(readinessProbe=s.container("cpu")["livenessProbe"]),
        "ask the same",
    ),
    Seed("pods", "probe-port", at(f"{OF_CPU}.readinessProbe.httpGet.port", "http"), "no port is named 'http'"),
    Seed("pods", "labels", lambda s: s.group("gpu")["template"]["metadata"].pop("labels"), "labels: .*team.* missing"),
    Seed("pods", "secret", at(f"{OF_CPU}.env", [{"name": "HF_TOKEN", "value": "hf_x"}]), "take it from a Secret"),
    Seed("pods", "cpu-in-bytes", at(f"{OF_CPU}.resources.requests.cpu", "1Mi"), "counts bytes"),
    Seed("pods", "memory-in-milli", at(f"{OF_CPU}.resources.requests.memory", "512m"), "write 512Mi"),
    Seed(
        "pods",
        "autoscaler",
        lambda s: s.cluster["autoscalerOptions"].pop("securityContext"),
        "autoscaler: .*restricted",
    ),
    Seed(
        "pods",
        "submitter",
        lambda s: s.one("RayJob")["spec"]["submitterPodTemplate"]["spec"]["containers"][0].pop("securityContext"),
        "ray-job-submitter: .*restricted",
    ),
    Seed(
        "pods",
        "milvus-init",
        lambda s: s.one("Namespace")["metadata"]["labels"].update({"pod-security.kubernetes.io/enforce": "restricted"}),
        "config: securityContext.allowPrivilegeEscalation",
        MILVUS,
    ),
]


def _gpus(given: Set, **values: str) -> None:
    for side, value in values.items():
        given.container("gpu")["resources"][side]["nvidia.com/gpu"] = value


def _security(name: str, field: str, value: Any, says: str) -> Seed:
    """One rule of Pod Security, broken on a worker. `field`: a path of its container's, or of the pod's with `pod.`."""

    def change(given: Set) -> None:
        target = given.pod("cpu") if field.startswith("pod.") else given.container("cpu")
        put(target, field.removeprefix("pod."), value)

    return Seed("pods", f"restricted-{name}", change, says)


SECURITY = [
    _security("host-network", "pod.hostNetwork", True, "hostNetwork: must not be set"),
    _security("host-path", "pod.volumes.0", {"name": "scratch", "hostPath": {"path": "/"}}, "hostPath is none of"),
    _security("nfs", "pod.volumes.0", {"name": "scratch", "nfs": {"server": "a", "path": "/"}}, "nfs is none of"),
    _security("sysctl", "pod.securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}], "is not safe"),
    _security("root", "securityContext.runAsUser", 0, "runAsUser: must not be 0"),
    _security("may-be-root", "securityContext.runAsNonRoot", False, "runAsNonRoot: must be true"),
    _security("privileged", "securityContext.privileged", True, "privileged: must not be true"),
    _security("escalation", "securityContext.allowPrivilegeEscalation", True, "allowPrivilegeEscalation: must be"),
    _security("capabilities", "securityContext.capabilities", {"drop": ["NET_RAW"]}, "drop: must have ALL"),
    _security("added", "securityContext.capabilities.add", ["SYS_PTRACE"], "SYS_PTRACE must not be added"),
    _security("seccomp", "securityContext.seccompProfile", {"type": "Unconfined"}, "seccompProfile.type"),
    _security("apparmor", "securityContext.appArmorProfile", {"type": "Unconfined"}, "appArmorProfile.type"),
    _security("selinux", "securityContext.seLinuxOptions", {"type": "spc_t"}, "seLinuxOptions"),
    _security("proc", "securityContext.procMount", "Unmasked", "procMount: must be Default"),
    _security("host-port", "ports.0.hostPort", 8000, "hostPort 8000 must not be set"),
    _security("probe-host", "readinessProbe.httpGet.host", "example.org", "httpGet.host: must not be set"),
]

SERVE = [
    Seed(
        "serve-config", "top", lambda s: s.serve(lambda c: c.update(http_option={})), "http_option: Serve does not know"
    ),
    Seed("serve-config", "application", lambda s: s.application(runtime_en={}), "runtime_en: Serve does not know"),
    Seed(
        "serve-config",
        "deployment",
        lambda s: s.application(deployments=[{"name": "Api", "autoscaling_confg": {}}]),
        "autoscaling_confg: Serve does not know",
    ),
    Seed(
        "serve-config",
        "scaling",
        lambda s: s.application(deployments=[{"name": "Api", "autoscaling_config": {"target_requests": 2}}]),
        "target_requests: Serve does not know",
    ),
    Seed(
        "serve-config",
        "actor",
        lambda s: s.application(deployments=[{"name": "Llm", "ray_actor_options": {"gpus": 1}}]),
        "gpus: Serve does not know",
    ),
    Seed(
        "serve-config",
        "min-max",
        lambda s: s.application(
            deployments=[{"name": "Llm", "autoscaling_config": {"min_replicas": 5, "max_replicas": 2}}]
        ),
        "must be greater than or equal to min_replicas",
    ),
    Seed(
        "serve-config",
        "both",
        lambda s: s.application(deployments=[{"name": "Api", "num_replicas": 2, "autoscaling_config": {}}]),
        "num_replicas is not allowed",
    ),
    Seed("serve-config", "name", lambda s: s.application(deployments=[{"name": "Lllm"}]), "has none of this name"),
    Seed("serve-config", "route", lambda s: s.application(route_prefix="v1"), "must begin with '/'"),
    Seed("serve-config", "import", lambda s: s.application(import_path="serving.deployments:biuld"), "has no biuld"),
    Seed("serve-config", "module", lambda s: s.application(import_path="serving.deploymnts:build"), "No module named"),
    Seed("serve-config", "setting", lambda s: s.settings("llm", modle="x"), "llm.modle: Extra inputs"),
    Seed("serve-config", "value", lambda s: s.settings("api", replicas=0), "api.replicas"),
    Seed("serve-config", "host", lambda s: s.serve(lambda c: c["http_options"].pop("host")), "not reachable"),
    Seed("serve-config", "port", lambda s: s.serve(lambda c: c["http_options"].update(port=9000)), "9000 is not the"),
    Seed(
        "serve-config", "proxies", lambda s: s.serve(lambda c: c.update(proxy_location="HeadOnly")), "must be EveryNode"
    ),
    Seed("serve-config", "working-dir", lambda s: s.application(runtime_env={"working_dir": "."}), "remote URI"),
    Seed(
        "serve-config",
        "twice",
        lambda s: s.serve(lambda c: c["applications"].append(dict(c["applications"][0]))),
        "multiple configs",
    ),
    Seed("serve-config", "empty", at("serveConfigV2", ""), "is empty"),
    Seed("serve-config", "no-yaml", at("serveConfigV2", "a: [b"), "is no YAML"),
]
