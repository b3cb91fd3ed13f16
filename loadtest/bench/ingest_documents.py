"""Documents for the ingestion benches: Markdown files of generated text, and the chunks that we make of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ingestion.chunk import Chunker
from ingestion.load import load
from loadtest.bench.corpus import paragraph
from serving.index.tokenizer import load_tokenizer
from serving.settings import Settings

#: Files in one folder.
_FOLDER = 1_000
#: Sentences of a section: the most there may be, so that it is one chunk, and the median where lengths vary.
_MOST, _MEDIAN, _LEAST = 14, 10, 2
#: Spread of the logarithm of a chunk's tokens in real documentation: 0.36 in the handbook (91 chunks), and 0.37 in
#: 2,700 chunks of Kubernetes' pages, half of which have 12 to 155 tokens and the others up to 233.
VARYING = 0.37


@dataclass(frozen=True, slots=True)
class Corpus:
    """A folder of documents, and a file with what is embedded of each: `[[name in the folder, [text, ...]], ...]`."""

    folder: Path
    chunks: Path
    texts: int


def write_documents(folder: Path, documents: int, sections: int = 3, *, varying: float = 0.0, seed: int = 7) -> None:
    """Pages of so many sections. Each is a chunk of about 150 words and 1 kB, or of lengths that vary by a log-normal
    law (`varying`: the spread of the logarithm), half of them longer than 110 words.
    """
    draw = random.Random(seed)
    for number in range(documents):
        path = folder / f"{number // _FOLDER:03}" / f"page-{number:06}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = [
            f"## Section {place}\n\n{paragraph(draw, number * sections + place, _sentences(draw, varying))}\n"
            for place in range(sections)
        ]
        path.write_text("\n".join([f"# Page {number}\n", *parts]), encoding="utf-8")


def _sentences(draw: random.Random, varying: float) -> int:
    return min(_MOST, max(_LEAST, round(_MEDIAN * draw.lognormvariate(0, varying)))) if varying else _MOST


def change(folder: Path, share: float, seed: int = 8) -> None:
    """A new section at the end of every so many documents, at least of the first."""
    draw = random.Random(seed)
    for number, path in enumerate(documents(folder)[:: max(1, round(1 / share))]):
        with path.open("a", encoding="utf-8") as page:
            page.write(f"\n## Addition\n\n{paragraph(draw, number)}\n")


def documents(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.md"))


def write_chunks(folder: Path, path: Path) -> Corpus:
    """Cut every document as ingestion does, for sides that bring no splitter of ours."""
    settings = Settings()
    chunker = Chunker(
        load_tokenizer(settings.embedder.model),
        chunk_tokens=settings.ingestion.chunk_tokens,
        tenant=settings.index.tenant,
        collection="bench",
    )
    cut = [[str(page.relative_to(folder)), list(_texts(chunker, page))] for page in documents(folder)]
    path.write_text(json.dumps(cut), encoding="utf-8")
    return Corpus(folder, path, sum(len(texts) for _, texts in cut))


def texts_of(chunks: Path) -> list[str]:
    """All texts of such a file, in the order of the documents."""
    return [text for _, texts in json.loads(chunks.read_text(encoding="utf-8")) for text in texts]


def _texts(chunker: Chunker, page: Path) -> Iterator[str]:
    document = load(page.as_uri(), str(page), page.read_bytes())
    return (chunk.embedded_text() for chunk in chunker.chunk(document))
