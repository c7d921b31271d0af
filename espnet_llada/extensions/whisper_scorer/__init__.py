"""Whisper's decoder, with adapters, teacher-forced along a text."""
