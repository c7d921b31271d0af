"""Whisper-LLaMA's search, and Whisper's own decoder."""
