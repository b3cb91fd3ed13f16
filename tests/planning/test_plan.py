"""`anchorage plan`: what fits, how fast, for how much."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serving.cli import build
from serving.errors import ConfigurationError
from serving.planning.count import read_shape
from serving.planning.gpus import GIB, catalogue
from serving.planning.plan import Choice, Wish, choices
from serving.planning.speed import Engine
from tests.planning.published import DEEPSEEK_V3, LLAMA_8B, LLAMA_70B, MIXTRAL


def plan(folder: Path, *words: str) -> Any:
    """What `anchorage plan --json` says; raises what it would print."""
    done = CliRunner().invoke(build(), ["plan", "--model", str(folder), "--json", *words], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return {**json.loads(done.stdout), "exit": done.exit_code}


def model(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def engine(config: dict[str, Any], gpu: str, count: int = 1) -> Engine:
    return Engine(read_shape(config, "m"), catalogue()[gpu], count, 2.0, 2.0)


def test_the_bounds_are_the_published_ones() -> None:
    """Llama-3-8B in bf16 on an H200: 3.13 ms a token, 5.1 ms for 64 answers, 14.7 and 62 ms for prompts."""
    h200 = engine(LLAMA_8B, "H200")
    assert h200.step_s(1, 0) == pytest.approx(3.13e-3, rel=0.01)
    assert h200.step_s(64, 1152) == pytest.approx(5.1e-3, rel=0.02)
    assert h200.step_s(256, 1152) == pytest.approx(11.2e-3, rel=0.02)
    assert h200.prefill_s(1024) == pytest.approx(14.7e-3, rel=0.02)
    assert h200.prefill_s(4096) == pytest.approx(62e-3, rel=0.02)
    assert h200.output_rate(256, 1024, 128) == pytest.approx(6300, rel=0.05)


def test_an_a100_writes_as_fast_as_was_measured() -> None:
    """75 tokens a second for one answer of an 8B on an A100-40, measured with vLLM 0.23: within a fifth."""
    assert 1 / engine(LLAMA_8B, "A100-40").expected_step_s(1, 500) == pytest.approx(75, rel=0.2)


def test_more_answers_read_more_experts() -> None:
    """One token reads 2 of Mixtral's 8 experts, a large batch all of them."""
    mixtral = read_shape(MIXTRAL, "m").experts
    assert mixtral is not None
    assert mixtral.read(1) == pytest.approx(mixtral.total / 4)
    assert mixtral.read(64) == pytest.approx(mixtral.total, rel=1e-6)


def test_a_70b_needs_the_gpus_that_hold_it(tmp_path: Path) -> None:
    """131 GiB of weights: two H100 hold them with no cache to speak of, four do the work."""
    found = plan(model(tmp_path, LLAMA_70B), "--concurrency", "32")
    counts = {choice["gpu"]: choice["gpus"] for choice in found["choices"]}
    assert (counts["H100"], counts["H200"], counts["MI300X"]) == (4, 2, 2)
    assert {misfit["gpu"] for misfit in found["misfits"]} >= {"T4", "L4", "A10G"}
    assert found["exit"] == 0


def test_the_parts_of_memory_add_up(tmp_path: Path) -> None:
    """Weights, a step, graphs, context and cache are what vLLM may use of the GPU."""
    (choice,) = plan(model(tmp_path, LLAMA_8B), "--gpu", "h100")["choices"]
    memory = choice["memory_bytes"]
    total = sum(memory[part] for part in ("weights", "step", "graphs", "context", "kv"))
    assert total == pytest.approx(0.92 * memory["gpu"], abs=10)
    assert choice["answers_at_full_context"] == memory["kv"] // (8192 * 131072)
    assert memory["kv"] == pytest.approx(54.5 * GIB, rel=0.05)


def test_replicas_share_the_answers(tmp_path: Path) -> None:
    """Four replicas of an L4 do what one L4 has no room for."""
    folder = model(tmp_path, LLAMA_8B)
    (alone,) = plan(folder, "--gpu", "L4", "--concurrency", "16")["choices"]
    (shared,) = plan(folder, "--gpu", "L4", "--concurrency", "16", "--max-replicas", "16")["choices"]
    assert (alone["gpus"], shared["gpus"]) == (2, 1)
    assert shared["usd_hour_all_replicas"] == pytest.approx(16 * shared["usd_hour"])


def test_quantization_and_kv_type_make_room(tmp_path: Path) -> None:
    """fp8 halves what each of them takes."""
    folder = model(tmp_path, LLAMA_8B)
    (plain,) = plan(folder, "--gpu", "H100")["choices"]
    (small,) = plan(folder, "--gpu", "H100", "--quantization", "fp8", "--kv-dtype", "fp8")["choices"]
    assert small["memory_bytes"]["weights"] < 0.58 * plain["memory_bytes"]["weights"]
    assert small["answers_at_full_context"] > 2 * plain["answers_at_full_context"]
    assert small["engine_args"]["kv_cache_dtype"] == "fp8"


def test_a_t4_is_told_to_use_float16(tmp_path: Path) -> None:
    """It has no bfloat16, and vLLM would refuse to start."""
    folder = model(tmp_path, LLAMA_8B)
    (choice,) = plan(folder, "--gpu", "T4", "--concurrency", "4")["choices"]
    assert choice["engine_args"]["dtype"] == "float16"
    assert plan(folder, "--gpu", "T4", "--concurrency", "4", "--dtype", "bfloat16")["misfits"][0]["gpu"] == "T4"


def test_the_deploy_line_carries_the_engine_arguments(tmp_path: Path) -> None:
    """What is printed can be run: each value survives the shell, and says what the plan says."""
    (choice,) = plan(model(tmp_path, LLAMA_70B), "--gpu", "H100", "--max-replicas", "3")["choices"]
    words = shlex.split(choice["deploy"])
    assert words[:8] == ["anchorage", "deploy", "--model", str(tmp_path), "--gpus", "4", "--gpu", "H100"]
    values = dict(word.split("=", 1) for word in words if "=" in word)
    assert json.loads(values["llm.engine_args"]) == choice["engine_args"]
    assert choice["engine_args"]["tensor_parallel_size"] == 4
    assert int(values["scaling.llm_requests"]) == choice["llm_requests"] <= choice["engine_args"]["max_num_seqs"]


def test_best_is_cheapest_first_and_prices_can_be_given(tmp_path: Path) -> None:
    """An H200 for a dollar goes before everything."""
    found = plan(model(tmp_path, LLAMA_8B), "--price", "H200=1")["choices"]
    assert found[0]["gpu"] == "H200"
    assert [choice["usd_hour"] for choice in found] == sorted(choice["usd_hour"] for choice in found)


def test_nothing_fits_is_exit_code_1(tmp_path: Path) -> None:
    """671 B in fp8 do not go into four T4, and the reason is said."""
    found = plan(model(tmp_path, DEEPSEEK_V3), "--gpu", "T4")
    assert (found["exit"], found["choices"]) == (1, [])
    assert "leave no KV cache" in found["misfits"][0]["reason"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--gpu", "H999"), "H999.*There are: T4, L4"),
        (("--context", "200000"), "made for 131,072 tokens"),
        (("--kv-dtype", "int3"), "int3.*Known"),
        (("--dtype", "int8"), "dtype 'int8'"),
        (("--price", "L4"), "TYPE=USD"),
        (("--price", "L4=-1"), "above 0"),
        (("--quantization", "magic"), "magic.*Known: awq"),
        (("--context", "512", "--prompt-tokens", "600"), "longer than the context"),
    ],
)
def test_impossible_wishes_say_what_is_possible(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    """Each message names the value and what to do."""
    with pytest.raises(ConfigurationError, match=message):
        plan(model(tmp_path, LLAMA_8B), *words)


def test_a_table_is_printed_for_people(tmp_path: Path) -> None:
    """With the arguments for the best choice."""
    done = CliRunner().invoke(build(), ["plan", "--model", str(model(tmp_path, LLAMA_8B))])
    assert done.exit_code == 0
    assert "8.03 B parameters" in done.stdout
    assert '"max_model_len": 8192' in done.stdout


class _Hub(BaseHTTPRequestHandler):
    """A model hub that has one model, a gated one, and one whose file is broken."""

    def do_GET(self) -> None:
        answers = {
            "/org/model/resolve/main/config.json": (200, json.dumps(LLAMA_8B)),
            "/org/gated/resolve/main/config.json": (403, "{}"),
            "/org/broken/resolve/main/config.json": (200, "<html>"),
            "/org/down/resolve/main/config.json": (503, ""),
        }
        status, text = answers.get(self.path, (404, ""))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    # As HF_ENDPOINT, HF_HUB_OFFLINE and HF_HUB_CACHE would have set them at import.
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_a_model_of_a_hub_is_planned_from_its_config_alone() -> None:
    """One small file is fetched, no weights."""
    assert plan(Path("org/model"))["model"]["parameters"] == 8_030_261_248


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/gated", "set HF_TOKEN"),
        ("org/absent", "no such model"),
        ("org/broken", "no JSON"),
        ("org/down", "answered 503.*--model ./FOLDER"),
        ("no-such-folder", "no such folder"),
    ],
)
def test_a_model_that_cannot_be_read_says_why(name: str, message: str) -> None:
    """And what else to give."""
    with pytest.raises(ConfigurationError, match=message):
        plan(Path(name))


def test_a_larger_wish_never_needs_less() -> None:
    """More answers at a time, more GPUs or a misfit, whatever the type."""
    shape = read_shape(LLAMA_70B, "70B")
    for gpu in catalogue().values():
        counts = []
        for concurrency in (1, 8, 64, 512):
            found, _ = choices(shape, Wish(context=8192, concurrency=concurrency), [gpu])
            counts.append(found[0].count if found else 99)
            assert all(isinstance(choice, Choice) and choice.fits_at_once >= concurrency for choice in found)
        assert counts == sorted(counts)
