"""The report of a sweep: figures, and one HTML file that loads nothing."""
