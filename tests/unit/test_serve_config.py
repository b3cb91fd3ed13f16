"""`anchorage serve-config`: what it prints is what the builder reads, says little, and holds no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from serving.cli import build
from serving.deployments.arguments import read_pairs, read_settings
from serving.deployments.config import on_a_cluster, serve_config, serve_config_text
from serving.deployments.environment import cluster_variables, pod_grace_s, replica_drain_s
from serving.errors import ConfigurationError
from serving.settings import Settings

runner = CliRunner()


def printed(*arguments: str) -> dict[str, Any]:
    done = runner.invoke(build(), ["serve-config", *arguments])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def arguments_of(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["applications"][0]["args"]
    return found


def test_flags_become_arguments_of_the_builder() -> None:
    """What was given, what a cluster wants otherwise than a laptop, and nothing else."""
    config = printed("--model", "Qwen/Qwen3-8B", "--max-replicas", "3", "--set", "llm.engine_args.max_model_len=8192")
    assert config["proxy_location"] == "EveryNode"
    assert (config["http_options"]["host"], config["http_options"]["port"]) == ("0.0.0.0", 8000)
    assert [(app["name"], app["import_path"]) for app in config["applications"]] == [
        ("anchorage", "serving.deployments:build")
    ]
    assert arguments_of(config) == {
        "api": {"replicas": 2, "max_replicas": 4, "cpus": 0.5},
        "embedder": {"max_replicas": 4, "cpus": 1.0},
        "llm": {
            "model": "Qwen/Qwen3-8B",
            "device": "gpu",
            "engine_args": {"max_model_len": 8192},
            "min_replicas": 0,
            "max_replicas": 3,
        },
        "scaling": {"cpu_plane": True},
        "telemetry": {"log_json": True},
    }


def test_the_builder_reads_what_is_printed() -> None:
    """The settings of the pods are those that were meant, whatever kind of value they are."""
    meant = read_settings(
        {
            "llm.model": "some/model",
            "llm.env": {"VLLM_LOGGING_LEVEL": "INFO"},
            "api.max_replicas": 1,
            "embedder.replicas": 6,
            "ingestion.web.allowed_hosts": ["example.com"],
            "ingestion.cluster.embed_gpus": 1.5,
            "index.milvus_uri": "http://milvus:19530",
        }
    )
    read = read_settings(arguments_of(yaml.safe_load(serve_config_text(meant))))
    assert read == on_a_cluster(meant)
    assert (read.api.replicas, read.api.max_replicas) == (1, 1)
    assert (read.embedder.replicas, read.embedder.max_replicas) == (6, 6)


def test_what_was_said_goes_before_what_a_cluster_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a flag or by the environment, also where it says the laptop's value."""
    monkeypatch.setenv("ANCHORAGE_LLM__MIN_REPLICAS", "1")
    monkeypatch.setenv("ANCHORAGE_API__CPUS", "0.1")
    found = arguments_of(printed("-m", "some/model", "--set", "scaling.cpu_plane=false", "--on-cold", "wait"))
    assert "min_replicas" not in found["llm"]
    assert found["llm"]["on_cold"] == "wait"
    assert "cpus" not in found["api"]
    assert "scaling" not in found


def test_without_a_model_there_is_no_llm() -> None:
    """Extractive answers need no GPU."""
    assert "llm" not in arguments_of(printed())


def test_no_secret_is_ever_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that pods get from Secrets are left out."""
    monkeypatch.setenv("ANCHORAGE_INDEX__MILVUS_TOKEN", "root:S3CRET")
    monkeypatch.setenv("ANCHORAGE_INDEX__CATALOG_URL", "postgresql://anchorage:S3CRET@db/catalog")
    monkeypatch.setenv("ANCHORAGE_API__KEYS", json.dumps(["S3CRET"]))
    monkeypatch.setenv("ANCHORAGE_INGESTION__STORES", json.dumps({"s3": {"secret_access_key": "S3CRET"}}))
    text = runner.invoke(build(), ["serve-config", "-m", "some/model"]).stdout
    assert "some/model" in text
    assert "S3CRET" not in text
    assert not {"keys", "catalog_url", "milvus_token", "stores"} & set(text.replace(":", " ").split())


@pytest.mark.parametrize(
    "pair",
    [
        "llm.env.HF_TOKEN=S3CRET",
        "llm.engine_args.hf_token=S3CRET",
        "llm.env.AWS_SECRET_ACCESS_KEY=S3CRET",
        "index.milvus_uri=http://root:S3CRET@milvus:19530",
    ],
)
def test_a_secret_where_it_would_be_shown_is_refused(pair: str) -> None:
    """With the name of the setting, what to do instead, and without the secret."""
    with pytest.raises(ConfigurationError, match=pair.partition("=")[0]) as refused:
        serve_config(read_settings(read_pairs([pair])))
    assert "S3CRET" not in str(refused.value)


@pytest.mark.parametrize(
    ("pair", "complaint"),
    [("llm=3", "GROUP.FIELD=VALUE"), ("llm.max_replicas", "GROUP.FIELD=VALUE"), ("llm.modell=x", "llm.modell")],
)
def test_a_pair_that_is_no_setting_is_refused(pair: str, complaint: str) -> None:
    """With what is wrong with it."""
    with pytest.raises(ConfigurationError, match=complaint):
        read_settings(read_pairs([pair]))


def test_it_can_be_written_to_a_file(tmp_path: Path) -> None:
    """The committed texts of the manifests are made like that."""
    file = tmp_path / "serve.yaml"
    assert runner.invoke(build(), ["serve-config", "-o", str(file)]).exit_code == 0
    assert yaml.safe_load(file.read_text()) == printed()


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """And the folder that is missing is not made."""
    done = runner.invoke(build(), ["serve-config", "-o", str(tmp_path / "none" / "serve.yaml")])
    assert isinstance(done.exception, ConfigurationError)
    assert "cannot be written" in str(done.exception)


def test_serve_takes_it() -> None:
    """Ray's own schema, which ignores names that it does not know: so all of them come back from it."""
    from ray.serve.schema import ServeDeploySchema

    config = serve_config(Settings())
    found = ServeDeploySchema.model_validate(config).model_dump(mode="json", exclude_unset=True)
    assert found.keys() == config.keys()
    assert found["http_options"] == config["http_options"]
    assert found["logging_config"] == config["logging_config"]
    assert found["applications"][0] == config["applications"][0]


def test_each_link_of_the_drain_is_longer_than_the_one_before() -> None:
    """The longest answer, its replica, its node, its pod."""
    deadline_s = Settings().api.deadline_s
    node_s = float(cluster_variables(deadline_s)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert deadline_s < replica_drain_s(deadline_s) < node_s < pod_grace_s(deadline_s)
