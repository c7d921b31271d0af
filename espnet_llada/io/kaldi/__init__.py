"""Kaldi's files: tables of ``id value`` lines, and what their values point at."""
