"""Components that do not go together are refused by name, and their READMEs say so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving.cluster.exclusive import PAIRS
from serving.errors import ConfigurationError
from tests.cluster.conftest import Cli

COMPONENTS = Path(__file__).parents[2] / "manifests" / "components"


@pytest.mark.parametrize(("one", "other"), [pair[:2] for pair in PAIRS])
def test_each_pair_is_refused_and_documented(cli: Cli, one: str, other: str) -> None:
    """Before kustomize; one of the two READMEs names the other in a sentence with `not`, `alternative` or `first`."""
    with pytest.raises(ConfigurationError, match=f"{one} and {other} do not go together"):
        cli("deploy", "--render", "--overlay", "local", "--with", "no-milvus", "--with", one, "--with", other)
    sentences = [
        sentence
        for mine, its in ((one, other), (other, one))
        for sentence in re.split(r"(?<=[.:])\s|\n\n", (COMPONENTS / mine / "README.md").read_text())
        if f"`{its}`" in sentence
    ]
    assert any(re.search(r"\b([Nn]ot|[Nn]either|alternative)\b", each) for each in sentences), sentences


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("eks", "--with", "cluster-autoscaler"), "The overlay brings karpenter: leave cluster-autoscaler out"),
        (("eks", "--with", "milvus-operator-cluster"), "--with no-milvus --with milvus-operator-cluster"),
    ],
)
def test_what_the_overlay_brings_counts(cli: Cli, options: tuple[str, ...], told: str) -> None:
    """With what to do about it."""
    with pytest.raises(ConfigurationError, match=told):
        cli("deploy", "--render", "--overlay", *options)
