"""The rows of an experiment, its jobs and its results."""
