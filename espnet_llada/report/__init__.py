"""The report of a sweep: figures, and one HTML page that needs nothing beside it."""
