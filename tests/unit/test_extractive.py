"""Extractive answers: quoted sentences, each cited, in a form that reads well."""

from __future__ import annotations

import pytest

from serving.citation import CitationFilter
from serving.errors import EmbedderUnavailable
from serving.extractive import ExtractiveGenerator
from serving.generation import GenerationRequest, Sampling, Token
from serving.index.types import Passage, Vectors
from serving.statements import plain, statements
from tests.contract.generators import WordEmbedder

DRAIN = """This page shows how to safely drain a node. See [the docs](/docs) for more.

You can use [`kubectl drain`](/docs/drain) to **safely evict** all pods from a
node before maintenance, e.g. a kernel upgrade. Have you met the prerequisites?

Next, tell Kubernetes to drain the node:

```shell
kubectl drain <node name>
```

A drained node keeps running daemons."""
PHASES = """The phases of a Pod are:

* `Pending` - accepted, but not running
* `Running` - bound to a node

| Value | Meaning |
|-------|---------|
| `Failed` | A container ended in failure. |"""


def passage(number: int, text: str, title: str, score: float = 0.7) -> Passage:
    return Passage(f"c{number}", f"{number}.md", title, text, 0, len(text), (title,), 0, score)


PASSAGES = (passage(1, DRAIN, "Drain a node"), passage(2, PHASES, "Pod phase", 0.4))


async def answer(question: str, passages: tuple[Passage, ...] = PASSAGES) -> str:
    request = GenerationRequest("r", "extractive", (), Sampling(), question, passages)
    batches = [batch async for batch in ExtractiveGenerator(WordEmbedder()).generate(request)]
    raw = "".join(event.text for batch in batches for event in batch if isinstance(event, Token))
    checked = [event for batch in batches for event in CitationFilter(passages).batch(batch)]
    assert "".join(event.text for event in checked if isinstance(event, Token)) == raw, "every citation is supported"
    return raw


async def test_a_how_to_answer_keeps_its_command() -> None:
    """The code block below a step comes with it, whole; page talk and questions do not come."""
    text = await answer("How do I evict pods to drain a node?")
    assert "drain the node [1]:\n\n```shell\nkubectl drain <node name>\n```" in text
    assert "You can use `kubectl drain` to safely evict all pods from a node before maintenance, e.g. a kernel" in text
    for noise in ("This page", "See the docs", "?", "](", "**"):
        assert noise not in text


async def test_a_list_is_kept_whole_below_its_lead() -> None:
    """One marker on the lead, the items once."""
    text = await answer("What are the phases of a Pod?")
    assert (
        "The phases of a Pod are [2]:\n\n- `Pending` - accepted, but not running\n- `Running` - bound to a node" in text
    )
    assert text.count("Pending") == 1


async def test_a_table_row_reads_as_a_line() -> None:
    """Without its pipes."""
    assert "`Failed`: A container ended in failure [2]." in await answer(
        "What does the value Failed of a container mean?"
    )


async def test_nothing_good_enough_is_said_honestly() -> None:
    """No sentence is quoted, so nothing is cited."""
    text = await answer("How do I bake sourdough bread?")
    assert text == "The passages found do not answer this question; the closest one is about “Drain a node”."
    assert "no passages" in await answer("anything", ())


async def test_a_sentence_is_said_once() -> None:
    """The same text in two passages is quoted from the better one."""
    twice = (passage(1, DRAIN, "Drain a node"), passage(2, DRAIN, "Drain a node", 0.6))
    text = await answer("How do I drain a node?", twice)
    assert text.count("kubectl drain <node name>") == 1
    assert "[2]" not in text


async def test_a_failing_embedder_is_not_hidden() -> None:
    """Its error names the part that is down."""

    class Away:
        async def embed(self, texts: object) -> Vectors:
            raise EmbedderUnavailable("away")

    request = GenerationRequest("r", "extractive", (), Sampling(), "How do I drain a node?", PASSAGES)
    with pytest.raises(EmbedderUnavailable):
        await anext(ExtractiveGenerator(Away()).generate(request))


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ('See [`a b`](/x "t"), ![img](y) and **bold** _it_ *em*.', "See `a b`, and bold it em."),
        ('A {{< tip text="x" >}}thing<br/> <!-- no -->[ref][1] here [2].', "A thing ref here."),
        ("`a[1] **x**` stays\nas  it", "`a[1] **x**` stays as it"),
        ("snake_case_name and 2 * 3 * 4", "snake_case_name and 2 * 3 * 4"),
    ],
)
def test_markdown_noise_is_stripped(markdown: str, expected: str) -> None:
    """Code spans stay as they are."""
    assert plain(markdown) == expected


def test_code_without_a_sentence_takes_its_heading() -> None:
    """A chunk may begin with its code block; a section of pointers says nothing."""
    (statement,) = statements(1, passage(1, "```\nls\n```", "List files"))
    assert (statement.text, statement.attached, statement.headed) == ("List files:", "```\nls\n```", True)
    assert statements(1, passage(1, "Go to the other page and stay there.", "What's next")) == []
