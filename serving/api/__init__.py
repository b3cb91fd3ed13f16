"""The HTTP edge: OpenAI-compatible routes over an Answerer, a Retriever and an Embedder."""
