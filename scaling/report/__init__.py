"""The HTML report of runs: `write` makes the folder, `summary_table` the table alone."""

from scaling.report.build import write
from scaling.report.tables import summary_table

__all__ = ["summary_table", "write"]
