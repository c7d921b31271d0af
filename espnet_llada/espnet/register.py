"""Adds our classes to ESPnet2's choices; ESPnet has no plugin discovery."""

from __future__ import annotations

from espnet_llada.import_guards import before_espnet


def register() -> None:
    """Add our encoder, post-encoder, decoders, model and scheduler to ESPnet2.

    Afterwards ``decoder: llada`` (or ``llama``) in a train YAML is enough: the ASR
    task then builds our model and reads text with the LM's tokenizer. Configs with
    any other decoder are untouched. Calling it again changes nothing.
    """
    before_espnet()
    from espnet2.tasks import abs_task, asr

    from espnet_llada.build import ENCODER
    from espnet_llada.espnet.hooks import hook
    from espnet_llada.espnet.model import ESPnetLLMModel
    from espnet_llada.espnet.modules import (
        FrozenWhisperEncoder,
        LLaDADecoder,
        LLaMADecoder,
        postencoder_classes,
    )
    from espnet_llada.espnet.scheduler import LinearWarmupCosine

    asr.encoder_choices.classes[ENCODER] = FrozenWhisperEncoder
    asr.postencoder_choices.classes.update(postencoder_classes())
    asr.decoder_choices.classes["llada"] = LLaDADecoder
    asr.decoder_choices.classes["llama"] = LLaMADecoder
    asr.model_choices.classes["llada"] = ESPnetLLMModel
    abs_task.scheduler_classes["linear_warmup_cosine"] = LinearWarmupCosine
    hook(asr.ASRTask)
