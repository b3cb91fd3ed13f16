"""`anchorage dispatch` against an API server's HTTP, spoken by the real client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kubernetes import client

from ingestion.dispatch import RayJobs
from serving.errors import ConfigurationError, NotFound, WorkersUnavailable
from tests.manifests.schemas import check_custom, manifests

JOBS = "/apis/ray.io/v1/namespaces/here/rayjobs"
TEMPLATE = manifests("base/ingestion")["rayjob"]


@dataclass
class Server:
    """Keeps RayJobs; each look at a running one gives its next status. `failing`: answers to give first."""

    url: str = ""
    jobs: dict[str, Any] = field(default_factory=lambda: {TEMPLATE["metadata"]["name"]: TEMPLATE})
    statuses: list[dict[str, str]] = field(default_factory=list)
    failing: list[int] = field(default_factory=list)
    created: list[str] = field(default_factory=list)

    def get(self, name: str) -> tuple[int, Any]:
        if name not in self.jobs:
            return 404, {"message": "not found"}
        if name != TEMPLATE["metadata"]["name"] and self.statuses:
            self.jobs[name]["status"] = self.statuses.pop(0)
        return 200, self.jobs[name]

    def create(self, job: Any) -> tuple[int, Any]:
        name = job["metadata"]["name"]
        if name in self.jobs:
            return 409, {"message": "already exists"}
        self.jobs[name] = job
        self.created.append(name)
        return 201, job


@pytest.fixture
def server() -> Iterator[Server]:
    """On a free port."""
    state = Server()

    class Requests(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(lambda: state.get(self.path.removeprefix(f"{JOBS}/")))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == JOBS
            self._send(lambda: state.create(json.loads(body)))

        def _send(self, answer: Any) -> None:
            status, value = (state.failing.pop(0), {"message": "not now"}) if state.failing else answer()
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Requests) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        yield state
        http.shutdown()


@pytest.fixture
def jobs(server: Server) -> Iterator[RayJobs]:
    """The real client, which looks often."""
    with client.ApiClient(client.Configuration(host=server.url)) as connection:
        yield RayJobs(client.CustomObjectsApi(connection), "here", look_s=0.01, patience_s=5.0)


def test_a_copy_runs_and_is_waited_for(server: Server, jobs: RayJobs) -> None:
    """Not suspended, under its own name, valid by the CRD; how it ends is told."""
    server.statuses = [
        {},
        {"jobDeploymentStatus": "Initializing"},
        {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
        {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"},
    ]
    states: list[str] = []
    ended = jobs.dispatch("anchorage-ingest", "nightly-1", states.append)
    assert (ended.succeeded, states) == (True, ["New", "Initializing", "Running", "Complete"])
    job = server.jobs["nightly-1"]
    check_custom({key: value for key, value in job.items() if key != "status"})
    assert (job["spec"]["suspend"], server.jobs["anchorage-ingest"]["spec"]["suspend"]) == (False, True)


def test_failures_are_told(server: Server, jobs: RayJobs) -> None:
    """A job that failed, and one that ended without success."""
    server.statuses = [{"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": "exit code 1"}]
    ended = jobs.dispatch("anchorage-ingest", "nightly-2")
    assert (ended.succeeded, ended.message) == (False, "exit code 1")
    server.statuses = [{"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}]
    assert not jobs.dispatch("anchorage-ingest", "nightly-3").succeeded


def test_a_second_dispatcher_goes_on_waiting(server: Server, jobs: RayJobs) -> None:
    """The first was lost: the job is not made twice."""
    server.jobs["nightly-4"] = {"metadata": {"name": "nightly-4"}, "spec": {}}
    server.statuses = [{}, {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}]
    assert jobs.dispatch("anchorage-ingest", "nightly-4").succeeded
    assert server.created == []


def test_an_api_server_that_is_away_is_waited_for(server: Server, jobs: RayJobs) -> None:
    """Within bounds."""
    server.failing = [503, 500, 429]
    server.statuses = [{"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}]
    assert jobs.dispatch("anchorage-ingest", "nightly-5").succeeded
    with client.ApiClient(client.Configuration(host="http://127.0.0.1:9")) as connection:
        connection.configuration.retries = 0
        away = RayJobs(client.CustomObjectsApi(connection), "here", look_s=0.01, patience_s=0.0)
        with pytest.raises(WorkersUnavailable):
            away.dispatch("anchorage-ingest", "nightly-6")


def test_what_cannot_be_is_said(server: Server, jobs: RayJobs) -> None:
    """No such template, no right to it, a name that is too long."""
    with pytest.raises(NotFound, match="misspelt"):
        jobs.dispatch("misspelt", "nightly-7")
    with pytest.raises(ConfigurationError, match="47"):
        jobs.dispatch("anchorage-ingest", "n" * 48)
    server.failing = [403]
    with pytest.raises(ConfigurationError, match="not now"):
        jobs.dispatch("anchorage-ingest", "nightly-8")
