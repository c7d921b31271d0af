"""Whisper's encoder, the LM, its tokenizer: no idea of ASR strategies."""
