"""Any kubeconfig, and an API server at its worst: what is waited for, what is told, what is never shown."""

from __future__ import annotations

import json
import stat
import sys
import time
from pathlib import Path

import pytest

from serving.cluster.connection import Cluster
from serving.cluster.kubeconfig import connect
from serving.errors import AnchorageError, ClusterRefused, ClusterUnavailable, ConfigurationError, NotFound
from tests.cluster.apiserver import Fault, Server
from tests.cluster.conftest import write_kubeconfig

SECRET = "token-that-nobody-may-see"


@pytest.fixture
def cluster(server: Server, kubeconfig: Path) -> Cluster:
    """Patient, as far as a busy machine needs it."""
    return connect(str(kubeconfig), patience_s=10.0)


def plugin(path: Path, script: str) -> dict[str, object]:
    """A credential plugin, as clouds have them."""
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(path), "interactiveMode": "Never"}}


def credential(token: str) -> str:
    told = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}
    return json.dumps(told)


def test_a_credential_plugin_gives_a_token_and_a_new_one_when_it_ran_out(server: Server, tmp_path: Path) -> None:
    """Clouds' tokens last minutes; a deployment may take longer."""
    token = tmp_path / "token"
    token.write_text("first")
    script = f"print('''{credential('TOKEN')}'''.replace('TOKEN', open({str(token)!r}).read()))"
    config = write_kubeconfig(tmp_path / "config", server.url, plugin(tmp_path / "plugin", script))
    server.tokens = {"first"}
    cluster = connect(str(config))
    assert cluster.get("/version")["gitVersion"] == server.version
    server.tokens = {"second"}
    token.write_text("second")
    assert cluster.get("/version")["gitVersion"] == server.version


def test_a_credential_plugin_that_fails_is_named(server: Server, tmp_path: Path) -> None:
    """The client goes on without credentials; we do not."""
    user = plugin(tmp_path / "plugin", "import sys; sys.exit('run `cloud login` first')")
    config = write_kubeconfig(tmp_path / "config", server.url, user)
    with pytest.raises(ConfigurationError, match="run `cloud login` first"):
        connect(str(config))


def test_credentials_that_expired(server: Server, tmp_path: Path) -> None:
    """What to do is said; the token is not."""
    config = write_kubeconfig(tmp_path / "config", server.url, {"token": SECRET})
    server.tokens = {"another"}
    with pytest.raises(ClusterRefused, match="log in to the cluster again") as told:
        connect(str(config)).get("/version")
    assert SECRET not in str(told.value)


def test_kubeconfigs_that_cannot_be_used(server: Server, tmp_path: Path, kubeconfig: Path) -> None:
    """No file, no YAML, no such context: each is named."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        connect(str(tmp_path / "nowhere"))
    broken = tmp_path / "broken"
    broken.write_text("a: [")
    with pytest.raises(ConfigurationError, match="broken"):
        connect(str(broken))
    with pytest.raises(ConfigurationError, match="staging"):
        connect(str(kubeconfig), "staging")


def test_without_a_kubeconfig_and_outside_of_a_pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What would help is said."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigurationError, match="--kubeconfig"):
        connect()


def test_nobody_at_the_address(tmp_path: Path) -> None:
    """A refused connection; the message is for people."""
    config = write_kubeconfig(tmp_path / "config", "http://127.0.0.1:9", {"token": SECRET})
    with pytest.raises(ClusterUnavailable, match=r"127.0.0.1:9 cannot be reached: .*refused") as told:
        connect(str(config), patience_s=0).get("/version")
    assert "object at 0x" not in str(told.value)
    assert SECRET not in str(told.value)


def test_an_answer_that_does_not_come(server: Server, kubeconfig: Path) -> None:
    """Waited for as long as webhooks may take, and no longer."""
    server.faults = [Fault("^GET /version", delay_s=1.0, times=-1)]
    with pytest.raises(ClusterUnavailable, match="did not answer in time"):
        connect(str(kubeconfig), patience_s=0, read_s=0.2).get("/version")


def test_the_server_says_when_to_come_back(server: Server, cluster: Cluster) -> None:
    """And is not asked before."""
    server.faults = [Fault("^GET", status=429, reason="TooManyRequests", retry_after=1)]
    began = time.monotonic()
    cluster.get("/version")
    assert time.monotonic() - began >= 1.0


@pytest.mark.parametrize(
    "fault",
    [
        Fault("^GET", status=503, reason="ServiceUnavailable", times=2),
        Fault("^GET", status=500, reason="InternalError", message="etcdserver: leader changed"),
        Fault("^GET", status=504, reason="Timeout"),
        Fault("^GET", reset=True),
    ],
    ids=["503", "500", "504", "reset"],
)
def test_what_passes_is_waited_for(server: Server, cluster: Cluster, fault: Fault) -> None:
    """A control plane that is being upgraded is away for a moment."""
    server.faults = [fault]
    assert cluster.get("/version")["gitVersion"] == server.version


def test_patience_has_an_end(server: Server, kubeconfig: Path) -> None:
    """And the last reason is told."""
    server.faults = [Fault("^GET", status=503, message="etcd is down", times=-1)]
    with pytest.raises(ClusterUnavailable, match="etcd is down"):
        connect(str(kubeconfig), patience_s=2.0).get("/version")


def test_what_was_perhaps_done_is_not_done_twice(server: Server, cluster: Cluster) -> None:
    """Creating is not repeated when its answer was lost; applying, which is the same twice, is."""
    server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}})
    path = "/api/v1/namespaces/n/configmaps"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": {"a": "b"}}
    server.faults = [Fault("^POST", lost=True), Fault("^PATCH", lost=True)]
    with pytest.raises(ClusterUnavailable):
        cluster.create(path, body)
    assert sum(each.startswith("POST") for each in server.requests) == 1
    answer = cluster.apply(
        "/api/v1/namespaces/n/configmaps/d", body | {"metadata": {"name": "d"}}, {"fieldManager": "m"}
    )
    assert answer.status == 200
    assert server.find("ConfigMap", "d", "n") is not None


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        (
            Fault("^GET", status=403, reason="Forbidden", message="nodes is forbidden"),
            ClusterRefused,
            "nodes is forbidden",
        ),
        (Fault("^GET", status=422, reason="Invalid", message="spec.x: Invalid value"), ClusterRefused, "Invalid value"),
        (Fault("^GET", status=500, reason="", message="failed to create typed patch"), ClusterRefused, "typed patch"),
        (Fault("^GET", status=404, reason="NotFound", message="no such thing"), NotFound, "no such thing"),
    ],
    ids=["403", "422", "500", "404"],
)
def test_a_refusal_is_an_answer(
    server: Server, cluster: Cluster, fault: Fault, kind: type[AnchorageError], told: str
) -> None:
    """In the server's own words, at once."""
    server.faults = [fault]
    with pytest.raises(kind, match=told):
        cluster.get("/version")
    assert len(server.requests) == 1


def test_long_lists_come_in_pages(server: Server, cluster: Cluster) -> None:
    """All of them, whatever the server gives at a time."""
    for number in range(7):
        metadata = {"name": f"c{number}", "namespace": "n"}
        server.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    found = cluster.items("/api/v1/namespaces/n/configmaps", {"limit": 3})
    assert [each["metadata"]["name"] for each in found] == [f"c{number}" for number in range(7)]
    assert len(server.requests) == 3
