"""Recordings in any container, joined or cut."""
