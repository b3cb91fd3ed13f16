"""What `anchorage deploy` makes of the manifests passes the same layers as the sets that the README offers."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from serving.cli import build
from tests.manifests import crds, rendering
from tests.manifests.documents import Rendered
from tests.manifests.test_layers import LAYERS

COMMANDS = (
    "--overlay eks --model meta-llama/Llama-3.1-70B-Instruct --gpus 4 --max-replicas 3",
    "--overlay gke --with dra --model Qwen/Qwen3-32B --gpus 2",
    "--overlay gke --with weights-shared-volume --model Qwen/Qwen3-8B --max-replicas 8",
    "--overlay eks --namespace team-a --with monitoring --with gateway --with tls",
    "--overlay local --model Qwen/Qwen3-0.6B",
    "--overlay eks --gpu A100-80 --gpus 8 --max-replicas 2",
    "--overlay aks --gpu H100 --gpus 2",
    "--overlay gke --gpu A100-80 --max-replicas 6",
    "--overlay onprem --gpu H100 --model org/large --gpus 4",
    "--overlay eks --with weights-object-storage --with compile-cache --model s3://mine/Qwen3-8B --gpus 2",
    "--overlay onprem --set api.deadline_s=600",
    "--overlay eks --set api.max_replicas=30 --set llm.max_replicas=9",
    "--overlay onprem --with kueue --image example.org/a:1 --gpu-image example.org/b:1",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_line_asks_for_is_sound(command: str) -> None:
    """Another model, more GPUs, a longer deadline, another namespace, other images: nothing goes out of step."""
    crds.required()
    done = CliRunner().invoke(build(), ["deploy", "--render", *command.split()])
    assert done.exit_code == 0, done.output
    given = Rendered(command, tuple(rendering.parsed(done.stdout)))
    found = [fault for layer in LAYERS.values() for fault in layer(given)]
    assert not found, "\n".join(found)
