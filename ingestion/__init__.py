"""Anchorage's ingestion half: from documents to a published index. Start with `ingestion/pipeline.py`."""
