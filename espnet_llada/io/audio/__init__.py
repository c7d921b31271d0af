"""Reads recordings: WAV, FLAC, MP3, Ogg and others, also joined or truncated ones."""
