"""Every command of README.md does what it says."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import typer

from serving.cli import build

from .conftest import write_documents
from .running_stack import Stack, start_serve

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: Run by .ci/run, or by nobody but a person: they install, or run all of this.
ELSEWHERE = re.compile(r"make (demo|test|install|lint|format|bench)\b|git clone")
#: Run by tests/rehearsal and tests/loadtest, and by tests/cluster against an API server.
TESTED = re.compile(
    r"anchorage (rehearse|loadtest|deploy --overlay eks|status --cluster|ingest --on-cluster|destroy)\b"
)
#: Need what a test has not: a model; tests/ray serves one.
NEEDS_MODEL = "--model"
SERVE = ".venv/bin/anchorage serve"
PORT = "localhost:8000"


@dataclass
class Command:
    """A command or a script of the README, and the line it is on."""

    language: str
    text: str
    line: int


def commands() -> list[Command]:
    found: list[Command] = []
    readme = (ROOT / "README.md").read_text()
    for block in BLOCK.finditer(readme):
        line = readme[: block.start()].count("\n") + 2
        if block[1] == "python":
            found.append(Command("python", block[2], line))
            continue
        for number, text in enumerate(block[2].splitlines()):
            if text.startswith("$ "):
                found.append(Command("console", text[2:], line + number))
            elif found and text.startswith("> "):
                found[-1].text += "\n" + text[2:]
    return found


COMMANDS = [
    command
    for command in commands()
    if not ELSEWHERE.match(command.text) and not TESTED.search(command.text) and NEEDS_MODEL not in command.text
]


@dataclass
class Place:
    """Where a reader would stand: a directory with .venv and documents; the server on a port of its own."""

    folder: Path
    stack: Stack | None = None


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("readme")
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    write_documents(folder / "docs")
    found = Place(folder)
    yield found
    if found.stack is not None:
        await found.stack.destroy()


def test_the_readme_has_commands() -> None:
    """The pattern above still finds them."""
    assert len(COMMANDS) >= 6
    assert {command.language for command in COMMANDS} == {"console", "python"}
    assert SERVE in {command.text for command in COMMANDS}


@pytest.mark.parametrize("text", [command.text for command in commands() if TESTED.search(command.text)])
def test_a_command_that_is_run_elsewhere_is_understood(text: str) -> None:
    """The program takes it as it stands in the README."""
    program, name, *arguments = shlex.split(text)
    assert program == ".venv/bin/anchorage"
    known = typer.main.get_command(build()).commands[name]  # type: ignore[attr-defined]
    if name == "loadtest":
        name, *arguments = arguments
        known = known.commands[name]
    arguments = [str(ROOT / "README.md") if one.endswith(".json") else one for one in arguments]
    assert known.make_context(name, arguments).info_name == name


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"line {command.line}")
async def test_readme(command: Command, place: Place) -> None:
    """In the order of the page, as one reader would type them."""
    if command.text == SERVE:
        assert place.stack is None
        place.stack = await start_serve(place.folder / ".anchorage")
        await place.stack.until_ready()
        return
    address = place.stack.url.removeprefix("http://") if place.stack else PORT
    text = command.text.replace(PORT, address)
    program = ["bash", "-euo", "pipefail", "-c", text]
    if command.language == "python":
        program = [sys.executable, "-c", text]
    process = await asyncio.create_subprocess_exec(
        *program,
        cwd=place.folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("ANCHORAGE_")},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(120):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert not re.search(r'"error": ?[{"]', out.decode()), out.decode()
