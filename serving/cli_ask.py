"""`anchorage ask`: one question to the running server, its answer as it is written, and the sources of the answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from serving.cli_options import ApiKey, AsJson, DataDir, Url, server_url
from serving.client import Client
from serving.running import DEFAULT_DATA_DIR

#: A document may hold control sequences, and nobody's terminal shall obey them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def register(app: typer.Typer) -> None:
    app.command()(ask)


def ask(
    question: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    collection: Annotated[str | None, typer.Option("--collection", "-c", help="Ask this collection.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the server's LLM if it has one.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Ask a question: streams the answer and lists its sources."""
    client = Client(server_url(data_dir, url), api_key)
    asyncio.run(_ask(client, question, collection, model, as_json))


@dataclass
class Answered:
    """What a stream has told so far."""

    text: str = ""
    citations: list[Mapping[str, Any]] = field(default_factory=list)
    rag: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] | None = None

    def take(self, chunk: Mapping[str, Any]) -> str:
        """Add a chunk; the text that it brought."""
        self.rag = chunk.get("rag") or self.rag
        self.usage = chunk.get("usage") or self.usage
        delta = chunk["choices"][0].get("delta", {}) if chunk.get("choices") else {}
        self.citations += [a["url_citation"] for a in delta.get("annotations") or () if a.get("type") == "url_citation"]
        text = delta.get("content") or ""
        self.text += text
        return text

    def sources(self) -> dict[int, Mapping[str, Any]]:
        """The cited passages by number, in the order of their numbers."""
        passages = self.rag.get("passages") or ()
        numbers = sorted({citation["number"] for citation in self.citations})
        return {number: passages[number - 1] for number in numbers if number <= len(passages)}


async def _ask(client: Client, question: str, collection: str | None, model: str | None, as_json: bool) -> None:
    body: dict[str, Any] = {
        "model": model or await best_model(client),
        "messages": [{"role": "user", "content": question}],
        "stream_options": {"include_usage": True},
    }
    if collection:
        body["rag"] = {"collection": collection}
    await ask_server(client, body, as_json=as_json)


async def ask_server(client: Client, body: Mapping[str, Any], *, as_json: bool = False) -> Answered:
    """Write the answer to stdout as it comes, then its sources; or all of it as one JSON object."""
    out = Console(highlight=False, soft_wrap=True)
    answered = Answered()
    with Console(stderr=True).status("searching") as status:
        async for chunk in client.stream(body):
            if "comment" in chunk:
                status.update(visible(str(chunk["comment"])))
                continue
            text = answered.take(chunk)
            if text and not as_json:
                status.stop()
                out.file.write(visible(text))
                out.file.flush()
    if as_json:
        out.file.write(json.dumps(_as_dict(answered), ensure_ascii=False) + "\n")
        return answered
    out.file.write("\n")
    show_sources(out, answered)
    return answered


async def best_model(client: Client) -> str:
    """The LLM if the server has one, else the extractive engine."""
    names = [str(entry["id"]) for entry in (await client.get("/v1/models"))["data"]]
    # Only what can also answer without documents is listed as NAME@none.
    llms = [name.removesuffix("@none") for name in names if name.endswith("@none")]
    return llms[0] if llms else "extractive"


def show_sources(out: Console, answered: Answered) -> None:
    """A numbered list, and a line on how the answer came about."""
    sources = answered.sources()
    if sources:
        out.print("\n[bold]Sources[/]")
    for number, passage in sources.items():
        path = " › ".join(dict.fromkeys([passage["title"], *passage.get("heading", ())]))
        out.print(Text.assemble((f"  [{number}] ", "cyan"), visible(path)))
        out.print(Text(f"      {visible(passage['uri'])}", style="dim"))
    facts = [str(answered.rag.get("outcome", "")), str(answered.rag.get("model") or answered.rag.get("engine") or "")]
    total = (answered.rag.get("timings_ms") or {}).get("total")
    if total is not None:
        facts.append(f"{total / 1000:.2f} s")
    out.print(Text("\n" + " · ".join(dict.fromkeys(fact for fact in facts if fact)), style="dim"))


def _as_dict(answered: Answered) -> dict[str, Any]:
    sources = [{"number": number, **passage} for number, passage in answered.sources().items()]
    rag = {key: value for key, value in answered.rag.items() if key != "passages"}
    return {"answer": answered.text, "sources": sources, "rag": rag, "usage": answered.usage}


def visible(text: str) -> str:
    """The text without terminal control characters."""
    return _CONTROL.sub("", text)
