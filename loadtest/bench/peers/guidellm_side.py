"""GuideLLM against a server, by the interpreter of its own environment: its own command, and what its report says.

`python -m loadtest.bench.peers.guidellm_side URL ARRIVALS RATE REQUESTS TOKENS SEED FOUND`, ARRIVALS being `poisson` or
`constant`; to the file FOUND goes a JSON object: requests and tokens of the answers it calls successful, percentiles in
milliseconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtest.bench.fidelity_script import QUESTION


def command(url: str, arrivals: str, rate: str, requests: int, tokens: int, seed: str, folder: Path) -> list[str]:
    """As its documentation shows it. Its questions are in a file: nothing is to be generated, or tokenized."""
    questions = folder / "questions.jsonl"
    line = json.dumps({"prompt": QUESTION, "output_tokens_count": tokens}) + "\n"
    # It stops reading before the last ones.
    questions.write_text(line * 2 * requests, encoding="utf-8")
    return [
        *(sys.executable, "-m", "guidellm", "run", "--disable-console"),
        *("--backend", f"kind=openai_http,target={url},model=scripted"),
        *("--profile", f"kind={arrivals},rate={rate}"),
        *("--constraint", f"kind=max_requests,count={requests}"),
        *("--data", f"kind=json_file,path={questions}"),
        *("--seed", f"kind=static,value={seed}"),
        *("--output", f"kind=json,path={folder / 'report.json'}"),
    ]


def found(report: Mapping[str, Any]) -> dict[str, float]:
    (benchmark,) = report["benchmarks"]
    metrics = benchmark["metrics"]
    first, gap = (metrics[name]["successful"] for name in ("time_to_first_token_ms", "inter_token_latency_ms"))
    return {
        "requests": first["count"],
        "tokens": metrics["output_token_count"]["successful"]["total_sum"],
        "first_p50_ms": first["percentiles"]["p50"],
        "first_p90_ms": first["percentiles"]["p90"],
        "first_p99_ms": first["percentiles"]["p99"],
        "gap_p50_ms": gap["percentiles"]["p50"],
        "gap_p99_ms": gap["percentiles"]["p99"],
    }


def main() -> None:
    url, arrivals, rate, requests, tokens, seed, target = sys.argv[1:8]
    with tempfile.TemporaryDirectory(prefix="anchorage-bench-") as made:
        folder = Path(made)
        subprocess.run(command(url, arrivals, rate, int(requests), int(tokens), seed, folder), check=True, timeout=300)
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    Path(target).write_text(json.dumps(found(report)), encoding="utf-8")


if __name__ == "__main__":
    main()
