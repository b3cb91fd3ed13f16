"""OpenAPI fuzzing: no 5xx, and no status, content type or body that the document does not name."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.api.documented import ANSWERS
from tests.api.conftest import Stage, Staging

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

#: Per operation, valid and again invalid ones.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))


@pytest.fixture(scope="module")
async def fuzzed(staged: Staging) -> AsyncIterator[Stage]:
    async with staged(script="Short.", upload_wait_s=0.1) as stage:
        yield stage


async def test_fuzzing_finds_nothing_undocumented(fuzzed: Stage) -> None:
    """Valid and invalid requests to every operation, over real HTTP."""
    document = (await fuzzed.http.get("/openapi.json")).json()
    await asyncio.to_thread(_fuzz, document, fuzzed.url)


def _fuzz(document: dict[str, object], url: str) -> None:
    config = schemathesis.Config()
    schema = schemathesis.openapi.from_dict(document, config=config)
    schema.config.update(base_url=url)
    operations = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        operations += 1
        for mode in schemathesis.GenerationMode:
            _fuzz_operation(operation, mode)
    assert operations == 17


def _fuzz_operation(operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode) -> None:
    cases = operation.as_strategy(generation_mode=mode)

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=cases)
    def run(case: schemathesis.Case) -> None:
        _with_time_enough(case)
        case.call_and_validate(checks=CHECKS)
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            # Hardly ever does chance find the name of a model: the same once more behind that door.
            case.body["model"] = "hash" if "input" in case.body else "scripted"
            case.call_and_validate(checks=CHECKS)

    try:
        run()
    except hypothesis.errors.Unsatisfiable:
        # A route without parameters and body has no invalid requests.
        assert mode.is_negative
        assert operation.body.is_empty() if hasattr(operation.body, "is_empty") else not list(operation.body)


def _with_time_enough(case: schemathesis.Case) -> None:
    """A valid limit of a nanosecond gives a 504, which is a 5xx that was asked for."""
    given = (case.headers or {}).get("X-Request-Timeout-Seconds")
    if given is not None and re.fullmatch(r"[0-9.]+(e[+-]?[0-9]+)?", str(given)):
        case.headers["X-Request-Timeout-Seconds"] = "60"


async def test_the_document_names_what_clients_send(fuzzed: Stage) -> None:
    """Our 400 instead of FastAPI's 422, the key scheme, streams, Retry-After."""
    document = (await fuzzed.http.get("/openapi.json")).json()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert set(chat["responses"]) == {str(code) for code in (200, *ANSWERS)}
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert "Retry-After" in chat["responses"]["429"]["headers"]
    assert chat["security"] == [{"bearer": []}, {}]
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert (await fuzzed.http.get("/docs")).status_code == 200
