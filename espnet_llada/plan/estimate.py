"""What a training will need, from its config alone: no weights, no GPU, no network.

The network is built on torch's meta device, so parameters are counted, not estimated.
FLOPs and activations follow formulas that the functions below spell out; tests compare
them with torch's FlopCounterMode and with what autograd saves. A multiplication and an
addition count as two FLOPs; matrix products only.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from msgspec import Struct

from espnet_llada.io.schema import Count
from espnet_llada.networks.features import N_FFT
from espnet_llada.networks.frozen import ELEMENTS
from espnet_llada.plan.architectures import Gpu
from espnet_llada.plan.meta_model import Load, Network
from espnet_llada.types import UserError

FP32 = 4
_OPTIMIZER_STATES = {"sgd": 0, "adadelta": 2, "adagrad": 1, "rmsprop": 1}  # Adam's: 2


class Training(Struct):
    """Of a train YAML what decides time and memory, besides the network."""

    batch_type: str = "folded"
    batch_size: Count = 20
    num_iters_per_epoch: Count | None = None
    max_epoch: Count = 40
    accum_grad: Count = 1
    optim: str = "adadelta"
    train_dtype: Literal["float16", "float32", "float64", "bfloat16"] | None = None


def parameters(network: Network) -> dict[str, dict[str, int]]:
    """{part: {"trained", "frozen"}}."""
    return {
        name: {
            "trained": sum(p.numel() for p in part.parameters() if p.requires_grad),
            "frozen": sum(p.numel() for p in part.parameters() if not p.requires_grad),
        }
        for name, part in network.parts().items()
    }


def flops(network: Network, load: Load, cached: bool = False) -> dict[str, float]:
    """FLOPs of one iteration on one GPU, forward and backward.

    A product with P weights costs 2P for each position forward, as much again for the
    gradient of its input, and again for that of its weights where these are trained.
    Attention over K keys costs 4 K d for each query forward and twice that backward.

    Args:
        network: see ``build``.
        load: of one GPU.
        cached: the encoder's frames come from disk.
    """
    positions, scored = network.positions(load), network.scored(load)
    body, width = network.lm.body, network.lm.width
    weights = trained = 0
    for name, p in body.layers.named_parameters():
        if p.dim() == 2:
            trained += p.numel() * ("lora_" in name)
            weights += p.numel() * ("lora_" not in name)
    heads = body.config.num_attention_heads * body.layers[0].self_attn.head_dim
    attention = 4 * positions * heads * len(body.layers)
    vocabulary = network.lm.vocab_size
    return {
        "encoder": 0.0 if cached else load.rows * encoder_flops(network, load),
        "postencoder": load.rows * qformer_flops(network, load),
        "decoder.audio_prefix": 6.0
        * load.rows
        * network.vectors(load)
        * network.projection.weight.numel(),
        **_if_any("ctc", load.rows * ctc_flops(network, load)),
        "decoder.lm": load.rows
        * positions
        * (4.0 * weights + 6.0 * trained + 3 * attention),
        "head": 4.0 * load.rows * scored * vocabulary * width,
    }


def ctc_flops(network: Network, load: Load) -> float:
    """Of one row in training: its transcript's columns, and all tokens for the rest.

    The table is frozen, so a product costs as much again backward; the blank's not.
    """
    if network.ctc is None or not network.ctc.weight:
        return 0.0
    columns = (network.lm.vocab_size + load.tokens) * network.lm.width
    blank = network.ctc.blank.weight.numel()
    return network.vectors(load) * (4.0 * columns + 6.0 * blank)


def encoder_flops(network: Network, load: Load) -> float:
    """Of one row, forward: it is frozen, and nothing trained lies before it."""
    frames = network.frames(load)[0]
    sizes = network.encoder.config
    conv = (
        2 * network.encoder.conv1.weight.numel() + network.encoder.conv2.weight.numel()
    )
    block = sum(p.numel() for p in network.encoder.blocks.parameters() if p.dim() == 2)
    mel = 2 * sizes.n_mels * (N_FFT // 2 + 1)  # the filterbank; two for each frame
    attention = 4 * frames * sizes.d_model * sizes.layers
    return frames * (2.0 * (mel + conv + block) + attention)


def qformer_flops(network: Network, load: Load, training: bool = True) -> float:
    """Of one row; the gradient of the frames is not computed."""
    qformer, (inner, first) = network.postencoder, (3, 2) if training else (1, 1)
    queries, total = len(qformer.queries), 0.0
    for layer in qformer.layers:
        cross = layer.cross_attention
        on_frames = cross.key.weight.numel() + cross.value.weight.numel()
        matrices = sum(p.numel() for p in layer.parameters() if p.dim() == 2)
        attention = 4 * qformer.hidden * (queries + qformer.window)
        total += inner * queries * (2 * (matrices - on_frames) + attention)
        total += first * qformer.window * 2 * on_frames
    return network.windows(load) * total


def activation_bytes(
    network: Network, load: Load, mask_bytes: int = 1
) -> dict[str, float]:
    """What autograd keeps for the backward pass, on one GPU.

    For each position and layer of the LM, with width d, inner width f and s bytes a
    number: two norms keep their input in fp32 (8 d); the attention its queries, keys,
    values and outputs (4 s d), keys before they are repeated for the heads that share
    them, and a sum for each head; SiLU and the product behind it 3 s f; each LoRA
    target its input (4 d, under AMP 2 d) and the mask of its dropout. The frozen
    matrices keep nothing. The Q-Former is counted likewise (see the code), the head as
    a gradient for each position it scores. AMP is meant for an LM in bf16; one in fp32
    would be cast layer by layer, and the casts kept.

    Args:
        network: see ``build``.
        load: of one GPU.
        mask_bytes: of a dropout mask; 1 on a GPU, 4 on a CPU (2 in a LoRA under AMP,
            since it is as wide there as what it is multiplied with).
    """
    lm, config = network.lm, network.lm.body.config
    size = lm.head.element_size()
    d, inner = config.hidden_size, config.intermediate_size
    attention = lm.body.layers[0].self_attn
    heads = config.num_attention_heads * attention.head_dim
    layer = 2 * FP32 * d + 4 * size * heads + 3 * size * inner
    if attention.groups > 1:
        layer += size * heads // attention.groups
    layer += FP32 * config.num_attention_heads
    if network.lora is not None:
        targets, dropout = len(network.lora.target_modules), network.lora.dropout > 0
        kept = 2 if network.amp else FP32
        mask = min(mask_bytes, kept) * dropout
        layer += targets * (kept * (d + network.lora.r) + mask * d)
    norm = FP32 * d
    trained = sum(part["trained"] for part in parameters(network).values())
    body = load.rows * network.positions(load) * (len(lm.body.layers) * layer + norm)
    return {
        "postencoder": float(load.rows * _qformer_bytes(network, load, mask_bytes)),
        "decoder.lm": float(body),
        "head": float(size * load.rows * network.scored(load) * d),
        **_if_any("ctc", load.rows * _ctc_bytes(network, load)),
        "casts of trained weights": float(2 * trained * network.amp),
    }


def _ctc_bytes(network: Network, load: Load) -> float:
    """Of one row.

    What is projected, before and behind the scale, and its gradient; its transcript's
    rows of the table; in fp32 the columns and torch's forward variables.
    """
    if network.ctc is None or not network.ctc.weight:
        return 0.0
    size = network.lm.head.element_size()
    columns = (load.tokens + 2) + (2 * load.tokens + 1)
    own = load.tokens * network.lm.width * size
    return own + network.vectors(load) * (3 * size * network.lm.width + FP32 * columns)


def _if_any(name: str, value: float) -> dict[str, float]:
    """What most networks have not."""
    return {name: float(value)} if value else {}


def _qformer_bytes(network: Network, load: Load, mask_bytes: int) -> float:
    """The Q-Former and the projection behind it.

    For each query and layer, with width h: inputs of 6 matrices, 6 vectors of the two
    attentions, their 3 LayerNorms' inputs in fp32 and 3 dropout masks, and twice the
    inner width. Matrices that share an input share what is kept of it, but under AMP
    each keeps a cast of its own.
    """
    qformer, amp = network.postencoder, network.amp
    layers, width = len(qformer.layers), network.encoder.d_model
    size = 2 if amp else FP32
    h, ffn = qformer.hidden, qformer.layers[0].ffn_in.out_features
    inputs = 7 if amp else 5
    query = (inputs + 6) * size * h + 3 * FP32 * h + 2 * size * ffn
    query += 3 * mask_bytes * h * (qformer.dropout.p > 0)
    frame = 2 * size * h  # key and value
    once = 2 * layers * size * width if amp else size * width
    queries = len(qformer.queries) * (layers * query + size * h)
    return network.windows(load) * (queries + qformer.window * (layers * frame + once))


def memory(
    network: Network, load: Load, training: Training, gpus: int
) -> dict[str, float]:
    """Bytes on one GPU at the peak, the start of the backward pass."""
    weights: dict[str, float] = {}
    trained = 0
    itemsize = getattr(torch, training.train_dtype or "float32").itemsize
    for part in network.parts().values():
        for parameter in part.parameters():
            trained += parameter.numel() * parameter.requires_grad
            name = "trained" if parameter.requires_grad else str(parameter.dtype)[6:]
            size = itemsize if parameter.requires_grad else parameter.element_size()
            key = f"weights, {name if name == 'trained' else 'frozen ' + name}"
            weights[key] = weights.get(key, 0.0) + parameter.numel() * size
    states = _OPTIMIZER_STATES.get(training.optim.lower(), 2)
    kept = activation_bytes(network, load)
    logits = load.rows * network.scored(load) * network.lm.vocab_size
    # So many at a time: in the head's dtype, in fp32, and their gradient.
    logits = min(logits, ELEMENTS["cuda"])
    if network.ctc is not None and network.ctc.weight:  # of one row, all its vectors
        logits = max(logits, network.vectors(load) * network.lm.vocab_size)
    logits *= 2 * network.lm.head.element_size() + FP32
    return weights | {
        "gradients": float(trained * itemsize * (2 if gpus > 1 else 1)),  # DDP's copy
        "optimizer": float(trained * itemsize * states),
        "activations": sum(kept.values()),
        "logits": float(logits),
        "CUDA context": 1e9,
    }


def schedule(
    training: Training, gpus: int, hours: float, seconds: float
) -> dict[str, float]:
    """Iterations, optimizer steps, passes over the data.

    Args:
        training: of a train YAML.
        gpus: all of them.
        hours: of the training set.
        seconds: of its average utterance.

    Raises:
        UserError: batches that are not made by number of utterances.
    """
    if training.batch_type not in ("sorted", "unsorted", "folded"):
        raise UserError(
            f"batch_type {training.batch_type}: plan knows sorted, unsorted, folded"
        )
    batch, utterances = training.batch_size, hours * 3600 / seconds
    per_epoch = training.num_iters_per_epoch or math.ceil(utterances / batch)
    iterations = training.max_epoch * per_epoch
    return {
        "batch_size": batch,
        "rows": -(-batch // gpus),
        "iterations": iterations,
        "optimizer_steps": iterations // training.accum_grad,
        "passes": iterations * batch / utterances,
    }


def hours_of(iteration_flops: float, iterations: float, gpu: Gpu, mfu: float) -> float:
    """Wall-clock hours at a model FLOPs utilisation; the GPUs work side by side."""
    return iteration_flops * iterations / (gpu.tflops * 1e12 * mfu) / 3600
