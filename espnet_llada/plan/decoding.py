"""What a decoding will need, from a sweep and train configs alone.

An utterance is a list of LLM passes, each of which computes some positions, attends to
some and sends some through the output head; FLOPs, memory and time follow from that.
Tests compare passes with those of the samplers, FLOPs with torch's FlopCounterMode, and
times with PERFORMANCE.md's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from espnet_llada.plan.architectures import Gpu
from espnet_llada.plan.estimate import encoder_flops, qformer_flops
from espnet_llada.plan.meta_model import PROMPT_TOKENS, Load, Network
from espnet_llada.release.options import ReleaseSamplerOptions
from espnet_llada.sweep.rows import SweepRow

THRESHOLD_PASSES = 6
"""Assumed of a ``threshold`` (2605.29613 reports 6.1 at 0.95), at least one a block."""
DOUBTED = 0.1
"""Assumed share of tokens below a ``mask_threshold``."""

_KNOWN = ("canvas_size", "confidence", "block_cache", "long_form")
_WHISPER_PROMPT, _WHISPER_TOKENS = 4, 51866


@dataclass(frozen=True)
class Runtime:
    """How fast a row's ``runtime`` is, as measured on an H200.

    Attributes:
        launch: seconds in which the host launches a layer of the LM, with its share of
            head and sampler: what a pass takes at least, on whatever GPU.
        compute: share of the GPU's peak that products reach.
        bandwidth: share of its memory's rate at which weights are read.
    """

    launch: float
    compute: float
    bandwidth: float


RUNTIMES = {
    "plain": Runtime(20e-3 / 32, 0.46, 0.5),
    "static": Runtime(21.6e-3 / 32, 0.46, 0.5),
    "graph": Runtime(0.0, 0.46, 0.42),
    "compile": Runtime(0.0, 0.55, 0.52),
}
ENCODER_LAUNCH = 10e-3 / 32
"""Seconds for a layer of Whisper's encoder."""
BATCH = 5e-3
"""Seconds of a batch outside of encoder and LLM: log-mel, Q-Former, tokenizer."""


class Pass(NamedTuple):
    """Of one utterance: positions computed, attended to, and through the head."""

    positions: int
    keys: int
    scored: int


def refusal(row: SweepRow) -> str | None:
    """Why there is no plan of a row; None where there is."""
    if row.system == "text":
        return "nothing to decode: its transcripts are given"
    if row.system == "faster_whisper":
        return "left out: plan does not know faster_whisper"
    options = row.options.extensions
    strange = [name for name in options if name not in _KNOWN]
    if strange:
        return f"left out: plan does not know {strange[0]}"
    if "canvas_size" in options and options["canvas_size"].positions_per_vector:
        return "left out: plan does not know canvas_size: positions_per_vector"
    if "confidence" in options and not options["confidence"].passes:
        return "left out: plan does not know confidence: passes 0"
    if row.bench.weights or row.decoding.quantize_asr_model:
        return "left out: plan does not know weights in int8"
    return None


def passes(row: SweepRow, network: Network, load: Load) -> list[Pass]:
    """The LLM passes of an utterance; of decoding the most, as if EOS came last.

    Args:
        row: that there is a plan of, see ``refusal``.
        network: of the row's system.
        load: seconds and tokens of the utterance.
    """
    prefix, sampler = prefix_positions(row, network, load), row.options.sampler
    if row.system == "whisper":
        return _autoregressive(_WHISPER_PROMPT, load.tokens + 1, 1, _WHISPER_PROMPT)
    if row.system == "llama":
        tokens = min(load.tokens + 1, sampler.canvas_length)
        return _autoregressive(prefix, tokens, row.options.search.beam_size, 1)
    canvas, cached = _canvas(row, load), row.bench.cached_prefix or network.blind
    whole, found = prefix + canvas, []
    for group in _groups(row, load.tokens, canvas):
        for number, scored in enumerate(group):
            if number and "block_cache" in row.options.extensions:
                found.append(Pass(group[0], whole + group[0], scored))
            else:
                positions = canvas if cached and found else whole
                found.append(Pass(positions, whole, scored))
    return found


def prefix_positions(row: SweepRow, network: Network, load: Load) -> int:
    """Prompt and audio of an utterance."""
    audio = network.windows(load) * len(network.postencoder.queries)
    return PROMPT_TOKENS + audio * row.decoding.use_audio


def _autoregressive(prefix: int, tokens: int, beams: int, scored: int) -> list[Pass]:
    """With a KV cache."""
    later = [Pass(beams, prefix + i, beams) for i in range(1, tokens)]
    return [Pass(prefix, prefix, scored), *later]


def _canvas(row: SweepRow, load: Load) -> int:
    """Its positions."""
    options = row.options
    if options.deliberates:
        return load.tokens + options.sampler.tail
    length, size = options.sampler.canvas_length, options.extensions.get("canvas_size")
    if size is None or not size.tokens_per_second:
        return length
    return min(length, math.ceil(load.seconds * size.tokens_per_second) + 2)


def _groups(row: SweepRow, tokens: int, canvas: int) -> list[list[int]]:
    """Positions that each pass asks for, in groups that a block cache serves."""
    options = row.options.sampler
    if options.strategy in ("semi_ar", "deliberation_semi_ar"):
        return [_filling(*block, options.threshold) for block in _blocks(row, canvas)]
    if not options.deliberates:
        return [_filling(canvas, options.steps, options.threshold)]
    confidence = row.options.extensions.get("confidence")
    masked = int(tokens * options.mask_ratio)
    if confidence is not None and confidence.mask_threshold:
        masked = math.ceil(tokens * DOUBTED)
    if not masked:
        return []
    masked, steps, measuring = masked + options.tail, options.steps, 0
    if options.strategy == "deliberation_low_confidence":
        measuring = 1 if confidence is None else confidence.passes
    if not isinstance(options, ReleaseSamplerOptions):  # where it is beside the budget
        steps -= measuring
    filling = _filling(masked, steps, options.threshold)
    if measuring == 1:  # it asks for all positions, so the same cache serves
        return [[canvas, *filling]]
    return [*([-(-(canvas - i) // measuring)] for i in range(measuring)), filling]


def _blocks(row: SweepRow, canvas: int) -> list[tuple[int, int]]:
    """Positions and budget of each sub-block."""
    options = row.options.sampler
    if isinstance(options, ReleaseSamplerOptions):
        num = options.num_blocks
        sizes = [canvas // num] * (num - 1)
        sizes.append(canvas - sum(sizes))
        budgets = [options.steps // num] * num
    else:
        num = max(1, min(options.num_blocks, options.steps, canvas))
        edges = [canvas * i // num for i in range(num + 1)]
        sizes = [stop - start for start, stop in pairwise(edges)]
        budgets = _shares(options.steps, num)
    if options.threshold:
        assumed = _shares(max(THRESHOLD_PASSES, num), num)
        budgets = [min(pair) for pair in zip(budgets, assumed, strict=True)]
    return [*zip(sizes, budgets, strict=True)]


def _shares(total: int, parts: int) -> list[int]:
    share, rest = divmod(total, parts)
    return [share + (i < rest) for i in range(parts)]


def _filling(masked: int, steps: int, threshold: float) -> list[int]:
    """Positions that are masked before each pass."""
    if threshold:
        steps = min(steps, THRESHOLD_PASSES)
    if not masked or not steps:
        return []
    left, found = masked, []
    for commits in _shares(masked, min(steps, masked)):
        found.append(left)
        left -= commits
    return found


class Costs(NamedTuple):
    """What an LM costs.

    Attributes:
        position: FLOPs of one that is computed.
        pair: of one and one that it attends to.
        scored: of one that goes through the head.
        layers: number of layers.
        weights: number of weights that a pass reads.
    """

    position: float
    pair: float
    scored: float
    layers: int
    weights: int

    def of(self, one: Pass) -> tuple[float, float]:
        """FLOPs of a pass: layers, head."""
        pairs = one.positions * one.keys
        layers = self.position * one.positions + self.pair * pairs
        return layers, self.scored * one.scored


def costs(row: SweepRow, network: Network) -> Costs:
    """Of the LM of a row's system, LoRA merged, or of Whisper's own decoder."""
    if row.system == "whisper":
        sizes, layers = network.encoder.config, network.whisper_decoder_layers
        width = sizes.d_model
        used = layers * (6 * width**2 + 2 * width * sizes.ffn)
        pair = 4.0 * width * layers
        head = _WHISPER_TOKENS * width
        every = used + 2 * layers * width**2 + head  # keys and values of the frames
        position = 2.0 * used + pair * sizes.max_frames
        return Costs(position, pair, 2.0 * head, layers, every)
    body, head = network.lm.body, network.lm.vocab_size * network.lm.width
    named = body.layers.named_parameters()
    used = sum(p.numel() for n, p in named if p.dim() == 2 and "lora_" not in n)
    width, layers = body.config.num_attention_heads * body.config.head_dim, body.layers
    pair = 4.0 * width * len(layers)
    return Costs(2.0 * used, pair, 2.0 * head, len(layers), used + head)


def audio_flops(row: SweepRow, network: Network, load: Load) -> dict[str, float]:
    """FLOPs of what precedes the LLM, of one utterance."""
    if row.system == "whisper":
        load = replace(load, seconds=30.0)
        sizes = network.encoder.config
        cross = 4.0 * sizes.max_frames * sizes.d_model**2
        encoder = encoder_flops(network, load)
        return {"encoder": encoder + cross * network.whisper_decoder_layers}
    if not row.decoding.use_audio:
        return {}
    vectors = network.vectors(load)
    projected = network.projection.weight.numel()
    if network.ctc is not None:
        width = network.postencoder.hidden
        projected += network.lm.vocab_size * network.lm.width + width
    return {
        "encoder": encoder_flops(network, load),
        "postencoder": qformer_flops(network, load, training=False),
        "decoder.audio_prefix": 2.0 * vectors * projected,
    }


def flops(row: SweepRow, network: Network, load: Load) -> dict[str, float]:
    """FLOPs of one utterance by stage; see ``estimate.flops``."""
    price = costs(row, network)
    each = [price.of(one) for one in passes(row, network, load)]
    found = audio_flops(row, network, load)
    found["decoder.lm"] = sum(layers for layers, _ in each)
    return found | {"head": sum(head for _, head in each)}


def seconds(row: SweepRow, network: Network, load: Load, gpu: Gpu) -> float:
    """Time of a batch of like utterances on one GPU.

    Of the three that a pass waits for (the host, the products, the weights from memory)
    the slowest counts.
    """
    runtime, peak = RUNTIMES[row.bench.runtime], gpu.tflops * 1e12
    audio = load.rows * sum(audio_flops(row, network, load).values())
    launch = ENCODER_LAUNCH * network.encoder.config.layers
    total = BATCH + (max(launch, audio / (peak * runtime.compute)) if audio else 0.0)
    price, size = costs(row, network), network.lm.head.element_size()
    rows = together(row, load)
    cache = 0.0 if row.system == "whisper" else rows * cache_bytes(network)
    for one in passes(row, network, load):
        work = rows * sum(price.of(one))
        read = size * price.weights + cache * (one.keys - one.positions)
        total += (load.rows / rows) * max(
            price.layers * runtime.launch,
            work / (peak * runtime.compute),
            read / (gpu.bandwidth * 1e12 * runtime.bandwidth),
        )
    return total


def together(row: SweepRow, load: Load) -> int:
    """Utterances in an LLM pass; the release's sampler takes one after the other."""
    return 1 if isinstance(row.options.sampler, ReleaseSamplerOptions) else load.rows


def cache_bytes(network: Network) -> int:
    """Keys and values of one position."""
    body = network.lm.body
    heads = body.config.num_key_value_heads * body.config.head_dim
    return 2 * len(body.layers) * heads * network.lm.head.element_size()


def memory(row: SweepRow, network: Network, load: Load) -> dict[str, float]:
    """Bytes on a GPU at the peak of a batch.

    Activations: in the encoder two widths and two inner widths of a frame, in the LM
    three and three of a position. Logits: in the head's dtype, in fp32 and after the
    softmax, when activations are gone.
    """
    if row.system == "whisper":
        load = replace(load, seconds=30.0)
    each, encoder = passes(row, network, load), network.encoder
    rows, sizes, size = together(row, load), encoder.config, encoder.dtype.itemsize
    frames = load.rows * network.frames(load)[0]
    activations = frames * 2 * size * (sizes.d_model + sizes.ffn)
    positions, scored = (max((p[i] for p in each), default=0) for i in (0, 2))
    if row.system == "whisper":  # openai-whisper keeps fp32, and computes in fp16
        weights = sum(p.numel() for p in encoder.parameters())
        weights = 4.0 * (weights + costs(row, network).weights)
        logits = scored * _WHISPER_TOKENS * 10
        keys = each[-1].keys + sizes.max_frames
        cache = 4 * keys * sizes.d_model * network.whisper_decoder_layers
    else:
        weights = sum(
            float(p.numel() * p.element_size())
            for part in network.parts().values()
            for name, p in part.named_parameters()
            if "lora_" not in name
        )
        lm, size = network.lm, network.lm.head.element_size()
        inner = lm.body.config.intermediate_size
        width = 3 * size * (lm.width + inner)
        activations = max(activations, rows * positions * width)
        logits = scored * lm.vocab_size * (size + 8)
        cached = len({p.positions for p in each}) > 1
        keys = max((p.keys for p in each), default=0) * row.options.search.beam_size
        cache = cached * keys * cache_bytes(network)
    return {
        "weights": weights,
        "cache": float(rows * cache),
        "activations or logits": float(max(activations, rows * logits)),
        "CUDA context": 1e9,
    }
