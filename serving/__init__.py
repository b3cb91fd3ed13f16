"""Anchorage's serving half: from a question to a cited answer. Start with `serving/pipeline.py`."""
