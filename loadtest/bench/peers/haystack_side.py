"""Haystack's indexing pipeline into Milvus, by the interpreter of its own environment.

`python -m loadtest.bench.peers.haystack_side MODEL MILVUS_URI default|tuned FOLDER CHUNKS`; the file is that of
`ingest_documents.Corpus.chunks`. It waits for a line, then it prints a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from haystack import Document, Pipeline, component
from haystack.components.writers import DocumentWriter
from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersDocumentEmbedder
from milvus_haystack import MilvusDocumentStore


@component
class Ready:
    """Reads documents, and is a splitter whose chunks are known already."""

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(self, folder: str, listed: list[tuple[str, list[str]]]) -> dict[str, list[Document]]:
        return {"documents": [document for name, texts in listed for document in _documents(folder, name, texts)]}


def _documents(folder: str, name: str, texts: list[str]) -> list[Document]:
    page = Document(content=Path(folder, name).read_text(encoding="utf-8"), meta={"source": name})
    return [
        Document(content=text, meta={"source": name, "source_id": page.id, "split_id": place})
        for place, text in enumerate(texts)
    ]


def pipeline(model: str, store: MilvusDocumentStore, *, tuned: bool) -> Pipeline:
    """Defaults: float32, 32 texts at a time, in the order in which they come."""
    embedder = (
        SentenceTransformersDocumentEmbedder(model=model, batch_size=64, model_kwargs={"dtype": "bfloat16"})
        if tuned
        else SentenceTransformersDocumentEmbedder(model=model)
    )
    made = Pipeline()
    made.add_component("splitter", Ready())
    made.add_component("embedder", embedder)
    made.add_component("writer", DocumentWriter(store))
    made.connect("splitter.documents", "embedder.documents")
    made.connect("embedder.documents", "writer.documents")
    return made


def main(model: str, uri: str, folder: str, file: str, *, tuned: bool) -> None:
    store = MilvusDocumentStore(connection_args={"uri": uri})
    made = pipeline(model, store, tuned=tuned)
    listed: list[tuple[str, list[str]]] = json.loads(Path(file).read_text(encoding="utf-8"))
    first, *_ = listed
    made.run({"splitter": {"folder": folder, "listed": [(first[0], ["The first text takes the longest."])]}})
    sys.stdin.readline()
    cpu, started = time.process_time(), time.perf_counter()
    made.run({"splitter": {"folder": folder, "listed": listed}})
    spent = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
    print(json.dumps({**spent, "rows": store.count_documents() - 1}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *sys.argv[4:6], tuned=sys.argv[3] == "tuned")
