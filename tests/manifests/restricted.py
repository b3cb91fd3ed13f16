"""The Pod Security Standard `restricted`, with all of `baseline`, as the admission plugin of Kubernetes 1.34 to 1.37
checks it (k8s.io/pod-security-admission/policy). Linux pods; `windowsOptions` are refused as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.manifests.documents import containers

#: check_restrictedVolumes.go; `image` since 1.33.
_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
#: check_sysctls.go, those of 1.32 and later.
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
}
_SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_PROFILES = {"RuntimeDefault", "Localhost"}
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def faults(spec: Mapping[str, Any], annotations: Mapping[str, str] | None = None) -> list[str]:
    """What a namespace that enforces `restricted` would refuse of a pod. `spec`: PodSpec."""
    shared = spec.get("securityContext") or {}
    found = list(_pod(spec, shared))
    for key, value in (annotations or {}).items():
        if key.startswith(_APPARMOR) and not value.startswith(("runtime/default", "localhost/")):
            found.append(f"annotation {key}: {value!r} is no profile")
    for container in (*containers(spec), *(spec.get("ephemeralContainers") or ())):
        own = container.get("securityContext") or {}
        found += [f"{container['name']}: {fault}" for fault in _container(container, own, shared)]
    return found


def _pod(spec: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[str]:
    for flag in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(flag):
            yield f"{flag}: must not be set"
    for volume in spec.get("volumes") or ():
        if not volume.keys() & _VOLUMES:
            kinds = ", ".join(sorted(volume.keys() - {"name"})) or "none"
            yield f"volume {volume['name']}: {kinds} is none of {', '.join(sorted(_VOLUMES))}"
    for sysctl in shared.get("sysctls") or ():
        if sysctl["name"] not in _SYSCTLS:
            yield f"securityContext.sysctls: {sysctl['name']} is not safe"
    yield from (f"securityContext.{fault}" for fault in _context(shared))


def _container(container: Mapping[str, Any], own: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"securityContext.{fault}" for fault in _context(own))
    if own.get("privileged"):
        yield "securityContext.privileged: must not be true"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "securityContext.allowPrivilegeEscalation: must be false"
    if own.get("procMount") not in (None, "Default"):
        yield "securityContext.procMount: must be Default"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or ()):
        yield "securityContext.capabilities.drop: must have ALL"
    if added := set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
        yield f"securityContext.capabilities.add: {', '.join(sorted(added))} must not be added"
    if {**shared, **_given(own, "runAsNonRoot")}.get("runAsNonRoot") is not True:
        yield "securityContext.runAsNonRoot: must be true, here or for the pod"
    profile = own.get("seccompProfile") or shared.get("seccompProfile") or {}
    if profile.get("type") not in _PROFILES:
        yield "securityContext.seccompProfile.type: must be RuntimeDefault, here or for the pod"
    for port in container.get("ports") or ():
        if port.get("hostPort"):
            yield f"ports: hostPort {port['hostPort']} must not be set"
    yield from _hosts(container)


def _context(context: Mapping[str, Any]) -> Iterator[str]:
    """What holds for a pod's and for a container's."""
    if context.get("runAsNonRoot") is False:
        yield "runAsNonRoot: must be true"
    if context.get("runAsUser") == 0:
        yield "runAsUser: must not be 0"
    if (context.get("seccompProfile") or {}).get("type", "RuntimeDefault") not in _PROFILES:
        yield "seccompProfile.type: must be RuntimeDefault or Localhost"
    if (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault") not in _PROFILES:
        yield "appArmorProfile.type: must be RuntimeDefault or Localhost"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in _SELINUX or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions: type must be one for containers, user and role must not be set"
    if context.get("windowsOptions"):
        yield "windowsOptions: must not be set"


def _hosts(container: Mapping[str, Any]) -> Iterator[str]:
    """Since 1.34, nothing may be asked of another host."""
    lifecycle = container.get("lifecycle") or {}
    handlers = {name: container.get(name) for name in ("livenessProbe", "readinessProbe", "startupProbe")}
    handlers |= {f"lifecycle.{name}": lifecycle.get(name) for name in ("postStart", "preStop")}
    for name, handler in handlers.items():
        for way in ("httpGet", "tcpSocket"):
            if ((handler or {}).get(way) or {}).get("host"):
                yield f"{name}.{way}.host: must not be set"


def _given(context: Mapping[str, Any], field: str) -> dict[str, Any]:
    return {field: context[field]} if context.get(field) is not None else {}
