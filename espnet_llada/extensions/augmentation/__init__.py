"""Errors and audio that training makes up."""
