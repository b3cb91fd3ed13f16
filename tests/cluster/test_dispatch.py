"""`anchorage dispatch` and `anchorage ingest --on-cluster` against an API server's HTTP."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from serving.errors import ConfigurationError
from tests.cluster.apiserver import Fault, Server
from tests.cluster.conftest import Cli

TEMPLATE: dict[str, Any] = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {
        "name": "anchorage-ingest",
        "namespace": "anchorage",
        "labels": {"app.kubernetes.io/name": "anchorage"},
    },
    "spec": {"suspend": True, "entrypoint": "anchorage ingest s3://documents/", "ttlSecondsAfterFinished": 60},
}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


@pytest.fixture
def jobs(server: Server) -> Server:
    """With the template of the manifests."""
    server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "anchorage"}})
    server.put(TEMPLATE | {"metadata": dict(TEMPLATE["metadata"])})
    return server


def operator(server: Server, statuses: list[dict[str, str]]) -> None:
    """KubeRay, in short: the next status for the copy once the one before was looked at."""

    def looks() -> int:
        return sum("/rayjobs/" in each and each.startswith("GET ") for each in server.requests)

    def play() -> None:
        deadline, seen = time.monotonic() + 60, 0
        while statuses and time.monotonic() < deadline:
            jobs = copies(server)
            if jobs and looks() > seen:
                server.put({**jobs[0], "status": statuses.pop(0)})
                # One that was under way may have seen the status before.
                seen = looks() + 1
            time.sleep(0.01)

    threading.Thread(target=play, daemon=True).start()


def copies(server: Server) -> list[dict[str, Any]]:
    return [job for (kind, _, name), job in server.objects.items() if kind == "RayJob" and name != "anchorage-ingest"]


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tenth of a second, not every ten."""
    import ingestion.dispatch

    monkeypatch.setattr(ingestion.dispatch.RayJobs.__init__, "__kwdefaults__", {"look_s": 0.1})


def test_a_copy_runs_and_is_waited_for(jobs: Server, cli: Cli) -> None:
    """Not suspended, under its own name; its states are told, and the template is as it was."""
    operator(jobs, [{}, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, DONE])
    done = cli("dispatch", "anchorage-ingest", "--name", "nightly-1", "--namespace", "anchorage")
    assert done.code == 0, done.text
    assert "Running" in done.text
    (job,) = copies(jobs)
    assert (job["spec"]["suspend"], job["spec"]["entrypoint"]) == (False, "anchorage ingest s3://documents/")
    template = jobs.find("RayJob", "anchorage-ingest")
    assert template is not None
    assert template["spec"]["suspend"]


@pytest.mark.parametrize(
    "status",
    [
        {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": "exit code 1"},
        {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED", "message": "exit code 1"},
    ],
)
def test_failures_are_told(jobs: Server, cli: Cli, status: dict[str, str]) -> None:
    """A job that failed, and one that ended without success."""
    operator(jobs, [status])
    done = cli("dispatch", "anchorage-ingest", "--name", "nightly-2", "--namespace", "anchorage")
    assert (done.code, "exit code 1" in done.text) == (1, True)


def test_a_second_dispatcher_goes_on_waiting(jobs: Server, cli: Cli) -> None:
    """The first was lost, or its answer was: the job is not made twice."""
    jobs.faults = [Fault("^POST .*rayjobs", lost=True)]
    operator(jobs, [{}, DONE])
    assert cli("dispatch", "anchorage-ingest", "--name", "nightly-3", "--namespace", "anchorage").code == 0
    assert cli("dispatch", "anchorage-ingest", "--name", "nightly-3", "--namespace", "anchorage").code == 0
    assert len(copies(jobs)) == 1


def test_an_api_server_that_is_away_is_waited_for(jobs: Server, cli: Cli) -> None:
    """Unavailable, overloaded with a time to come back, and gone in the middle of an answer."""
    jobs.faults = [
        Fault("rayjobs", status=503, reason="ServiceUnavailable"),
        Fault("rayjobs", status=429, reason="TooManyRequests", retry_after=1),
        Fault("rayjobs", reset=True),
    ]
    operator(jobs, [DONE])
    assert cli("dispatch", "anchorage-ingest", "--name", "nightly-4", "--namespace", "anchorage").code == 0


def test_what_cannot_be_is_said(jobs: Server, cli: Cli) -> None:
    """No such template (2), a name that is too long and no right to it (1)."""
    assert cli("dispatch", "misspelt", "--name", "n", "--namespace", "anchorage").code == 2
    with pytest.raises(ConfigurationError, match="47"):
        cli("dispatch", "anchorage-ingest", "--name", "n" * 48, "--namespace", "anchorage")
    jobs.denied = {("create", "rayjobs")}
    with pytest.raises(ConfigurationError, match="Forbidden"):
        cli("dispatch", "anchorage-ingest", "--name", "nightly-5", "--namespace", "anchorage")


def test_sources_of_the_command_line_are_ingested_on_the_cluster(jobs: Server, cli: Cli) -> None:
    """Quoted for the shell that KubeRay gives them to; with a queue, Kueue lets the job go."""
    operator(jobs, [DONE])
    done = cli(
        "ingest", "s3://bucket/a b/", "https://docs.test/?a=1&b=2", "--on-cluster", "--collection", "handbook",
        "--include", "*.md", "--no-sync", "--queue", "nightly",
    )  # fmt: skip
    assert done.code == 0, done.text
    (job,) = copies(jobs)
    assert job["spec"]["entrypoint"] == (
        "anchorage ingest --distributed --ray-address auto --json --no-progress --wait 3600 --collection handbook "
        "--no-sync --include '*.md' -- 's3://bucket/a b/' 'https://docs.test/?a=1&b=2'"
    )
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "nightly"
    assert job["metadata"]["annotations"] == {"kueue.x-k8s.io/elastic-job": "true"}


def test_files_of_this_machine_are_not_for_the_cluster(jobs: Server, cli: Cli) -> None:
    """Said before anything is started."""
    done = cli("ingest", "docs/", "--on-cluster")
    assert (done.code, "cannot read what is on this machine" in done.text) == (2, True)
    assert copies(jobs) == []


def test_a_failed_run_on_the_cluster_is_an_exit_code(jobs: Server, cli: Cli) -> None:
    """With where its report is."""
    operator(jobs, [{"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": "3 documents failed"}])
    done = cli("ingest", "s3://bucket/", "--on-cluster")
    assert done.code == 1
    assert "3 documents failed" in done.text
    assert "kubectl logs" in done.text
