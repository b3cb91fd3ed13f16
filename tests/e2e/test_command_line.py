"""The command line as a person or a script meets it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from serving.cli_ask import visible

from .running_stack import Stack, anchorage

QUESTION = "When do spring tides come?"


async def test_help_names_every_command_and_the_exit_codes() -> None:
    """The first thing that a newcomer types."""
    done = await anchorage("--help")
    assert done.code == 0
    for word in ("serve", "ingest", "ask", "status", "demo", "version", "Exit codes", "ANCHORAGE_INDEX__MILVUS_URI"):
        assert word in done.out
    assert (await anchorage("ask", "--help")).code == 0


async def test_version_is_the_package_s() -> None:
    """For people and for scripts."""
    done = await anchorage("version", "--json")
    assert json.loads(done.out)["version"] in (await anchorage("version")).out


async def test_a_wrong_command_line_is_2() -> None:
    """Distinct from work that failed."""
    assert (await anchorage("serve", "--port", "high")).code == 2
    assert (await anchorage("frobnicate")).code == 2


async def test_without_a_server_ask_says_how_to_start_one(tmp_path: Path) -> None:
    """A clear line, no traceback."""
    done = await anchorage("ask", "anything", "--data-dir", str(tmp_path))
    assert done.code == 1
    assert f"serve --data-dir {tmp_path}" in done.err
    assert "Traceback" not in done.err


async def test_nobody_at_an_address_is_said(unused_port: int) -> None:
    """--url to a dead port."""
    done = await anchorage("ask", "anything", "--url", f"http://127.0.0.1:{unused_port}")
    assert (done.code, done.out) == (1, "")
    assert f"nobody answers at http://127.0.0.1:{unused_port}" in done.err


async def test_status_of_nothing_is_not_ready(tmp_path: Path) -> None:
    """Exit code 1, and it makes no directory by looking."""
    done = await anchorage("status", "--json", "--data-dir", str(tmp_path / "none"))
    assert done.code == 1
    assert json.loads(done.out)["ready"] is False
    assert not (tmp_path / "none").exists()


async def test_a_wrong_setting_names_its_variable(tmp_path: Path) -> None:
    """Not a validator's report."""
    done = await anchorage("serve", "--data-dir", str(tmp_path), ANCHORAGE_API__PORT="high")
    assert done.code == 1
    assert done.err.startswith("anchorage: ANCHORAGE_API__PORT:")


async def test_ask_streams_an_answer_with_numbered_sources(stack: Stack) -> None:
    """The server is found through its data directory."""
    done = await anchorage("ask", QUESTION, ANCHORAGE_DATA_DIR=str(stack.data_dir))
    assert done.code == 0, done
    assert "[1]" in done.out.split("Sources")[0]
    assert "[1] Tides" in done.out.split("Sources")[1]
    assert "tides.md" in done.out.split("Sources")[1]


async def test_ask_as_json_is_one_object(stack: Stack) -> None:
    """For scripts."""
    done = await anchorage("ask", QUESTION, "--url", stack.url, "--json")
    said = json.loads(done.out)
    assert said["rag"]["outcome"] == "extractive"
    assert "twice a month" in said["answer"]
    assert said["sources"][0]["number"] == 1
    assert said["sources"][0]["uri"].endswith("tides.md")
    assert done.err == ""


async def test_ask_passes_on_what_the_server_refuses(stack: Stack) -> None:
    """An unknown collection: the server's own words, exit code 1."""
    done = await anchorage("ask", QUESTION, "--url", stack.url, "--collection", "nowhere")
    assert (done.code, done.out.strip()) == (1, "")
    assert "404" in done.err
    assert "nowhere" in done.err
    assert "default" in done.err


async def test_status_of_a_running_stack(stack: Stack) -> None:
    """Parts, addresses and collections; exit code 0."""
    done = await anchorage("status", "--json", "--data-dir", str(stack.data_dir))
    found = json.loads(done.out)
    assert done.code == 0, found
    assert found["server"]["url"] == stack.url
    assert found["server"]["pid"] == stack.process.pid
    assert all(part["ready"] for part in found["server"]["parts"].values())
    assert found["milvus"]["pid"] in {process.pid for process in stack.family()}
    [collection] = [entry for entry in found["collections"] if entry["name"] == "default"]
    assert collection["documents"] == 2
    assert collection["generation"] >= 1
    shown = await anchorage("status", "--data-dir", str(stack.data_dir))
    assert shown.code == 0
    assert stack.url in shown.out
    assert "default" in shown.out


async def test_a_data_directory_is_served_once(stack: Stack) -> None:
    """The second is told where the first is, and takes nothing away from it."""
    done = await anchorage("serve", "--data-dir", str(stack.data_dir), "--port", "0")
    assert done.code == 1
    assert f"already served at {stack.url} by process {stack.process.pid}" in done.err
    assert (await anchorage("status", "--data-dir", str(stack.data_dir))).code == 0


async def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    """With what to do about it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = await anchorage("serve", "--data-dir", str(tmp_path), "--port", str(port))
    assert done.code == 1
    assert f"127.0.0.1:{port} cannot be used" in done.err
    assert "--port 0" in done.err
    assert not (tmp_path / "milvus.json").exists()


async def test_a_missing_model_folder_is_said_before_anything_starts(tmp_path: Path) -> None:
    """Not after a minute of starting vLLM; nor is a folder without a model one."""
    arguments = ("serve", "--data-dir", str(tmp_path / "data"), "--port", "0", "--model")
    done = await anchorage(*arguments, str(tmp_path / "llama"))
    assert done.code == 1
    assert "there is no model folder" in done.err or "vLLM is not installed" in done.err
    done = await anchorage(*arguments, str(tmp_path))
    assert "config.json" in done.err or "vLLM is not installed" in done.err


@pytest.mark.parametrize("hostile", ["\x1b]0;owned\x07text", "te\x9b31mxt", "text\r\x08"])
def test_a_document_cannot_command_the_terminal(hostile: str) -> None:
    """Control sequences are not written; newlines and tabs are."""
    assert visible(hostile).isprintable()
    assert visible("a\n\tb") == "a\n\tb"
