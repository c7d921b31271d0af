"""Linear layers and the vocabulary's tables in int8, for decoding on a CPU.

By torch's own dynamic quantization, as ESPnet's ``quantize_asr_model``: weights are
rounded to int8 once, a layer's input at each call. CPUs multiply int8 several times as
fast as float32. It is an approximation: the recipe's PERFORMANCE.md has what it costs
in WER, and as an input's scale is that of the whole batch, a result may depend on what
it is decoded with.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from espnet_llada.types import LoadOptions, UserError


def check_quantizable(options: LoadOptions) -> None:
    """Refuse what cannot be quantized, before anything is loaded.

    Raises:
        UserError: another device than a CPU, or a torch without the CPU's kernels.
    """
    if not options.quantize_asr_model:
        return
    if options.device.partition(":")[0] != "cpu":
        raise UserError(
            f"quantize_asr_model: torch does it on CPUs only, not on {options.device}; "
            "leave it out there"
        )
    if set(torch.backends.quantized.supported_engines) <= {"none"}:
        raise UserError(
            "quantize_asr_model: this torch has no int8 kernels for this CPU; leave it "
            "out"
        )


def quantized(model: nn.Module) -> nn.Module:
    """The model with its linear layers in int8; not to be trained any more.

    So are the tables that hidden states are multiplied with (``frozen.scores``), which
    are the parameters that a module names in ``scored``. These keep their float32 as
    well, from which embeddings are looked up and mixed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torchao, which has none for CPUs
        from torch.ao.quantization import default_dynamic_qconfig, quantize_dynamic

        # Those whose weight other code reads, or that are too small, say so.
        modules = dict(model.named_modules())
        floats = [n for n, m in modules.items() if getattr(m, "stays_float", False)]
        layers = {
            name: default_dynamic_qconfig
            for name, module in modules.items()
            if type(module) is nn.Linear
            and not any(f"{name}.".startswith(f"{place}.") for place in floats)
        }
        model = quantize_dynamic(model, layers)
        for module in model.modules():
            for name in getattr(module, "scored", ()):
                table = getattr(module, name)
                table.int8 = _quantized_table(table)
        return model


def _quantized_table(table: nn.Parameter) -> nn.Module:
    """(..., d) -> (..., V), the product with a (V, d) table; a scale for each row."""
    from torch.ao.nn.quantized.dynamic import Linear
    from torch.ao.quantization import per_channel_dynamic_qconfig

    layer = nn.Linear(table.shape[1], table.shape[0], bias=False)
    layer.weight = table
    layer.qconfig = per_channel_dynamic_qconfig
    return Linear.from_float(layer)
