"""A study as one page of HTML that needs nothing else."""

from loadtest.report.document import page

__all__ = ["page"]
