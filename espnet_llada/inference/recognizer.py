"""A model and options as a recognizer: the options say whose sampler it has."""

from __future__ import annotations

from torch import nn

from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.recognizer import Recognizer
from espnet_llada.release.options import ReleaseSamplerOptions
from espnet_llada.release.sampler import sample as release_sample


def make_recognizer(
    model: nn.Module,
    options: SamplerOptions,
    use_audio: bool = True,
    output_case: str = "auto",
) -> Recognizer:
    """What decodes with these options (``decode_file.make_options``).

    Args:
        model, options, use_audio, output_case: see ``Recognizer``.

    Raises:
        UserError: see ``Recognizer``.
    """
    given = model, options, use_audio, output_case
    if isinstance(options, ReleaseSamplerOptions):
        # The release hears words in silence, too.
        return Recognizer(*given, release_sample, skips_silence=False)
    return Recognizer(*given)
