"""The Serve config of a deployment, and what to try once it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.text import Text

from serving.cli_next import program
from serving.errors import ConfigurationError
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.cluster.fit import Served

#: What does not go into the Serve config, and where it goes instead.
_ELSEWHERE = {
    "api.keys": "the Secret anchorage-api (key `keys`, a JSON list)",
    "api.keys_file": "the Secret anchorage-api (key `keys`, a JSON list)",
    "index.catalog_url": "the Secret anchorage-index (key `catalog-url`)",
    "index.milvus_token": "the Secret anchorage-index (key `milvus-token`)",
    "ingestion.stores": "the environment of the ingestion's pods",
    "api.host": "the manifests",
    "api.port": "the manifests",
}


class _Told(Settings):
    """Of what was said alone: the environment of the machine that deploys is not the cluster's."""

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[Any, ...]:
        return (sources["init_settings"],)


def settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """GROUP.FIELD=VALUE. Raises ConfigurationError for what is no such pair, and for what would be shown or lost."""
    from serving.deployments.arguments import read_pairs

    found = read_pairs(pairs)
    for name in found:
        for elsewhere, place in _ELSEWHERE.items():
            if name == elsewhere or name.startswith(f"{elsewhere}."):
                raise ConfigurationError(f"--set {name}: this is not kept in the Serve config. It comes from {place}.")
    return found


def served(arguments: Mapping[str, Any]) -> Served:
    """A builder's arguments as a Serve config, and what it needs. Raises ConfigurationError for what is no setting."""
    from serving.cluster.fit import Served
    from serving.deployments.config import on_a_cluster, serve_config_text
    from serving.deployments.environment import cluster_variables, pod_grace_s

    try:
        told = _Told(**arguments)
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False)
        )
        raise ConfigurationError(f"These settings cannot be used: {reasons}") from None
    settings = on_a_cluster(told)
    llm, deadline_s = settings.llm, settings.api.deadline_s
    cpus = sum(each.cpus * max(each.replicas, each.max_replicas) for each in (settings.api, settings.embedder))
    return Served(
        text=serve_config_text(told),
        llm_replicas=max(llm.min_replicas, llm.max_replicas) if llm.model else 0,
        # The Ingestor has a little, and not on a pod that others have filled.
        cpus=cpus + 1,
        deadline_s=deadline_s,
        grace_s=pod_grace_s(deadline_s),
        variables=cluster_variables(deadline_s),
    )


def next_steps(things: Sequence[Mapping[str, Any]], namespace: str) -> Text:
    """Commands to copy."""
    where = "" if namespace == "anchorage" else f" --namespace {namespace}"
    hosts = [str(host) for thing in things for host in _hosts(thing)]
    outside = f"From outside:  https://{hosts[0]}/v1\n\n" if hosts else ""
    return Text(
        f"\nIt serves: http://anchorage.{namespace}.svc/v1\n\n{outside}"
        "From this machine:\n\n"
        f"  kubectl port-forward --namespace {namespace} service/anchorage 8000:80\n"
        f'  {program()} ask "..." --url http://127.0.0.1:8000\n\n'
        f"  {program()} ingest --on-cluster s3://BUCKET/FOLDER{where}\n"
        f"  {program()} status --cluster{where}\n"
    )


def _hosts(thing: Mapping[str, Any]) -> list[object]:
    spec = thing.get("spec") or {}
    if thing.get("kind") == "HTTPRoute":
        return list(spec.get("hostnames") or [])
    if thing.get("kind") == "Ingress":
        return [rule["host"] for rule in spec.get("rules") or [] if rule.get("host")]
    return []
