"""How Ray is set up, here and in a cluster's pods: by variables that it reads when it is imported."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

#: Measured on 2 cores, one Api replica, scripted engine: time to first token over asking the engine directly, and
#: tokens relayed a second with 64 streams. Serve's Python proxy with Ray's defaults 21 ms and 42,000 (its own OpenAI
#: app); the same proxy with these settings 9 ms and 41,000; HAProxy 3.0 ms and 60,000 to 69,000; the replica's own HTTP
#: server 2.9 ms and 70,000 to 83,000, and 130,000 and more without the niceness.
_FAST = {
    # One event loop a replica: no thread to hand each message to.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # Between replicas by gRPC, not through the object store.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
    # Ray's workers run at nice 15: whatever else the machine does would go before every answer.
    "RAY_worker_niceness": "0",
}
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
_DRAIN_S = "1"

#: What a replica that is stopped has for the answers it has begun, beyond the longest one, seconds; then what its node
#: has (a replica is moved first), and then its pod (whose preStop sleeps a little).
_REPLICA_MORE_S, _NODE_MORE_S, _POD_MORE_S = 10, 30, 60


def variables(port: int, *, direct: bool) -> Mapping[str, str]:
    """For a Ray of our own. `direct`: the one Api replica listens on `port` itself.

    A random token keeps other users of the machine and the network out of Ray's ports.
    """
    private = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return {**_FAST, **_QUIET, **private, **(_direct(port) if direct else {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"})}


def _direct(port: int) -> Mapping[str, str]:
    return {
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": _DRAIN_S,
        # A replica that died gives its port to the next one at once: there is only this one.
        "RAY_SERVE_PORT_QUARANTINE_S": "0",
    }


def cluster_variables(deadline_s: float) -> dict[str, str]:
    """For every Ray container of a cluster. `deadline_s`: `api.deadline_s`, the longest that an answer may take."""
    return {
        **{name: value for name, value in _FAST.items() if name != "RAY_worker_niceness"},
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Replicas are put where there already are some, so that nodes become empty and go.
        "RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY": "1",
        # Until a load balancer has noticed that a proxy takes no new connections.
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "30",
        # `ray start --block` moves its replicas away and waits this long after SIGTERM.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(round(deadline_s + _NODE_MORE_S)),
    }


def replica_drain_s(deadline_s: float) -> float:
    """`graceful_shutdown_timeout_s` of the replicas that answer, on a cluster."""
    return deadline_s + _REPLICA_MORE_S


def pod_grace_s(deadline_s: float) -> int:
    """`terminationGracePeriodSeconds` of the pods whose replicas answer."""
    return round(deadline_s + _POD_MORE_S)
