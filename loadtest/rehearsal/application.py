"""The application on the rehearsal's Ray: the Serve config that a cluster gets, deployed as KubeRay does it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import httpx

from loadtest.rehearsal.scenario import COLLECTION, DOCUMENTS, QUESTION
from serving.deployments.config import serve_config
from serving.deployments.names import API, APP, EMBEDDER, INGESTOR, LLM
from serving.errors import Unavailable
from serving.settings import Settings

_START_S = 300.0
_LOOK_S = 0.1
_ALWAYS_UP = (EMBEDDER, API, INGESTOR)


async def deploy(settings: Settings, autoscaling: Mapping[str, Any] | None) -> None:
    """Deploy it, or bring what runs up to date replica by replica. Returns when Serve has been told.

    `autoscaling`: instead of the Llm's own `autoscaling_config`. Raises ConfigurationError.
    """
    config = serve_config(settings)
    # All nodes are this machine: there is one port for one proxy.
    config |= {"proxy_location": "HeadOnly"}
    config["http_options"] |= {"host": settings.api.host, "port": settings.api.port}
    if autoscaling is not None:
        config["applications"][0]["deployments"] = [{"name": LLM, "autoscaling_config": dict(autoscaling)}]
    await asyncio.to_thread(_deploy, config)


async def until_running() -> None:
    """All but the Llm, which sleeps. Raises Unavailable with Serve's reason."""
    deadline = time.monotonic() + _START_S
    while True:
        details = await asyncio.to_thread(serve_details)
        application = details.get("applications", {}).get(APP, {})
        if str(getattr(application.get("status"), "value", "")) == "DEPLOY_FAILED":
            raise Unavailable(f"The application does not start: {application.get('message')}")
        if all(_runs(application, name) for name in _ALWAYS_UP):
            return
        if time.monotonic() > deadline:
            raise Unavailable(f"The application did not start within {_START_S:.0f} s: {application.get('message')}")
        await asyncio.sleep(_LOOK_S)


async def prepare(http: httpx.AsyncClient) -> None:
    """Upload the documents, and ask once, without waking the LLM. Raises Unavailable."""
    documents = [{"uri": f"rehearsal://{name}", "name": name, "text": text} for name, text in DOCUMENTS.items()]
    uploaded = await http.post(
        f"/v1/collections/{COLLECTION}/documents", params={"wait": "true"}, json={"documents": documents}
    )
    question = {"model": "extractive", "messages": [{"role": "user", "content": QUESTION}]}
    answered = await http.post("/v1/chat/completions", json=question)
    for reply in (uploaded, answered):
        if reply.status_code != 200:
            raise Unavailable(f"{reply.request.url.path} answers {reply.status_code}: {reply.text[:500]}")


def serve_details() -> dict[str, Any]:
    """What Serve's controller knows, as its REST API says it (`ServeInstanceDetails`)."""
    from ray.serve.context import _get_global_client

    details: dict[str, Any] = _get_global_client().get_serve_details()
    return details


def _deploy(config: Mapping[str, Any]) -> None:
    import logging

    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    schema = ServeDeploySchema.model_validate(config)
    serve.start(proxy_location=schema.proxy_location, http_options=config["http_options"])
    _get_global_client().deploy_apps(schema)


def _runs(application: Mapping[str, Any], name: str) -> bool:
    deployment = application.get("deployments", {}).get(name, {})
    states = [str(getattr(replica["state"], "value", replica["state"])) for replica in deployment.get("replicas", [])]
    wanted: int = deployment.get("target_num_replicas", 0)
    return states.count("RUNNING") >= max(1, wanted)
