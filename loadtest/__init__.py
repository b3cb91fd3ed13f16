"""Measurement: side-by-side benches (`python -m loadtest.bench`) and load tests."""
