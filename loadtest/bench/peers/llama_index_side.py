"""LlamaIndex's `IngestionPipeline` into Milvus, by the interpreter of its own environment.

`python -m loadtest.bench.peers.llama_index_side MODEL MILVUS_URI default|tuned FOLDER CHUNKS...`; the files are
those of `ingest_documents.Corpus.chunks`, one a pass. Before each it waits for a line, then it prints a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import BaseNode, Document, NodeRelationship, TextNode, TransformComponent
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.vector_stores.milvus import MilvusVectorStore

_COLLECTION = "llamacollection"


class Ready(TransformComponent):  # type: ignore[misc]  # its environment is not that of the type checker
    """A splitter whose chunks are known already."""

    texts: dict[str, list[str]]

    def __call__(self, nodes: Sequence[BaseNode], **_: Any) -> list[BaseNode]:
        return [
            TextNode(text=text, relationships={NodeRelationship.SOURCE: node.as_related_node_info()})
            for node in nodes
            for text in self.texts[node.node_id]
        ]


def embedding(model: str, *, tuned: bool) -> HuggingFaceEmbedding:
    """Defaults: float32, 10 texts at a time."""
    if not tuned:
        return HuggingFaceEmbedding(model_name=model)
    return HuggingFaceEmbedding(model_name=model, embed_batch_size=64, model_kwargs={"dtype": torch.bfloat16})


def _document(folder: Path, name: str) -> Document:
    return Document(text=(folder / name).read_text(encoding="utf-8"), id_=name)


def main(model: str, uri: str, folder: Path, files: Sequence[str], *, tuned: bool) -> None:
    ready = Ready(texts={})
    store = MilvusVectorStore(uri=uri, dim=384, batch_size=1_000 if tuned else 100)
    # With both stores its strategy is `upserts`: unchanged documents are left alone, changed ones replaced.
    pipeline = IngestionPipeline(
        transformations=[ready, embedding(model, tuned=tuned)], vector_store=store, docstore=SimpleDocumentStore()
    )
    ready.texts["warm"] = ["The first text takes the longest."]
    pipeline.run(documents=[Document(text="warm", id_="warm")])
    for file in files:
        listed: list[tuple[str, list[str]]] = json.loads(Path(file).read_text(encoding="utf-8"))
        sys.stdin.readline()
        cpu, started = time.process_time(), time.perf_counter()
        ready.texts = dict(listed)
        pipeline.run(documents=[_document(folder, name) for name in ready.texts])
        spent = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
        rows = store.client.query(_COLLECTION, filter="", output_fields=["count(*)"])[0]["count(*)"] - 1
        print(json.dumps({**spent, "rows": rows}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[4]), sys.argv[5:], tuned=sys.argv[3] == "tuned")
