"""Side-by-side measurements: `python -m loadtest.bench NAME` prints one table of ratios and exits 1 below its bar."""
