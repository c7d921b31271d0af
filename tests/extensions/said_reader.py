"""A reader that knows what is said."""

from __future__ import annotations

import math

import torch
from espnet_llada.extensions.alignment import spoken
from espnet_llada.extensions.whisper_scorer.reader import Reader

VOCAB, EOS = 12, 10


class Said(Reader):
    """Expects what is said next, behind each token; all else is equally unlikely."""

    def __init__(self, *said: list[int]):
        self.said, self.eos, self.rows = said, EOS, 0
        self.alignment = None

    def __call__(self, rows, texts):
        self.rows += len(texts)
        return [self.read(*pair) for pair in zip(rows, texts, strict=True)]

    def read(self, row, text):
        log_probs = torch.full((len(text) + 1, VOCAB), math.log(0.1 / (VOCAB - 1)))
        target = [*self.said[row], EOS]
        for place, n in enumerate(spoken(text, target[:-1])):
            log_probs[place, target[n]] = math.log(0.9)
        return self._reading(row, list(text), log_probs, torch.zeros(0))

    def behind(self, readings, kept, texts):
        whole = [
            self.read(r.row, [*r.text[:n], *text]).log_probs[n + 1 :]
            for r, n, text in zip(readings, kept, texts, strict=True)
        ]
        return whole, [torch.zeros(0)] * len(whole)

    def again(self, readings, texts):
        return self([r.row for r in readings], texts)
