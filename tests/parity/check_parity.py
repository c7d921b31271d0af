"""Compares this package with outputs of the paper's released implementation.

    python tests/parity/check_parity.py DIR

DIR holds a Whisper directory (whisper/), an LLaDA directory (llada/), a checkpoint in
the release's format (checkpoint_best.pth), the Q-Former's BERT configuration
(qformer_config.json) and what the release produced with them: reference_arrays.npz
and reference_outputs.json. All of it goes the way a user's files go: import, load,
encode, sample. Exit code 0 only if every tolerance holds and every case is identical.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from espnet_llada.core.canvas import blank_canvas, transcript_canvas
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.objective import NoisyCanvas, diffusion_loss
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.sampler import SamplerResult, sample
from espnet_llada.inference.loading import load_model
from espnet_llada.networks.backbone import OutputHead
from espnet_llada.networks.head import logits_nll
from espnet_llada.release.importing import ReleaseOptions, import_release
from espnet_llada.release.options import ReleaseSamplerOptions
from espnet_llada.release.sampler import sample as release_sample
from espnet_llada.types import SAMPLE_RATE

TOLERANCE = {"embeds": 1e-5, "logits": 3e-4, "confidence": 1e-5, "loss": 1e-5}


@dataclass
class Report:
    """Largest deviations (absolute; of losses relative) and the cases that differ.

    ``problems`` has what else is wrong, such as other prompt ids.
    """

    worst: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(TOLERANCE, 0.0)
    )
    cases: int = 0
    wrong: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def deviation(self, kind: str, ours, reference) -> None:
        d = float(np.abs(np.asarray(ours) - np.asarray(reference)).max(initial=0.0))
        self.worst[kind] = max(self.worst[kind], d if math.isfinite(d) else math.inf)

    def case(self, name: str, problem: str | None) -> None:
        self.cases += 1
        if problem:
            self.wrong.append(f"{name}: {problem}")

    @property
    def holds(self) -> bool:
        within = all(self.worst[kind] <= limit for kind, limit in TOLERANCE.items())
        return within and not self.wrong and not self.problems and self.cases > 0

    def lines(self) -> list[str]:
        """What is wrong, the transcripts' confidence, and the summary last."""
        same = f"{self.cases - len(self.wrong)}/{self.cases} cases identical"
        shown = ("embeds", "logits", "loss")
        values = ", ".join(f"{kind} d={self.worst[kind]:.1e}" for kind in shown)
        confidence = f"hyp_confidence d={self.worst['confidence']:.1e}"
        return [*self.problems, *self.wrong, confidence, f"parity: {same}, {values}"]


@torch.no_grad()
def check(directory: Path, every: int = 1) -> Report:
    """Run everything that DIR has a reference for, of decoding each ``every``-th."""
    arrays = np.load(directory / "reference_arrays.npz")
    outputs = json.loads((directory / "reference_outputs.json").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        bert = json.loads((directory / "qformer_config.json").read_text())
        import_release(
            directory / "checkpoint_best.pth",
            str(directory / "whisper"),
            str(directory / "llada"),
            out := Path(scratch) / "model",
            ReleaseOptions(bert["num_attention_heads"], prompt=outputs["prompt"]),
        )
        model = load_model(out / "config.yaml", out / "model.safetensors")
    decoder, report = model.decoder, Report()
    special = [decoder.special.mask, decoder.special.eos]
    if problem := _unequal(special, [outputs["mask_id"], outputs["eos_id"]]):
        report.problems.append(f"mask and EOS id: {problem}")
    if problem := _unequal(decoder.prompt_ids, arrays["prompt_ids"].tolist()):
        report.problems.append(f"prompt: {problem}")
    names = [k.removeprefix("pcm_") for k in arrays.files if k.startswith("pcm_")]
    prefixes = {}
    for name in names:
        pcm = torch.from_numpy(arrays[f"pcm_{name}"].astype(np.float32) / 32768)
        pcm = pcm[: 30 * SAMPLE_RATE]  # the release cuts longer audio off
        audio, lengths = model.encode(pcm[None], torch.tensor([len(pcm)]))
        prefixes[name] = decoder.prefix(audio, lengths)
        _check_arrays(report, decoder, prefixes[name], audio, arrays, name)
    for number, case in list(enumerate(outputs["cases"]))[::every]:
        title = f"case {number} ({case['mode']}, audio {case['audio']})"
        report.case(title, _check_case(decoder, prefixes[case["audio"]], case))
    for case in outputs["loss_cases"]:
        _check_loss(report, decoder, [prefixes[name] for name in case["audio"]], case)
    return report


def _check_arrays(
    report: Report, decoder: LMDecoder, prefix: Prefix, audio, arrays, name: str
) -> None:
    embeds = decoder.audio_prefix.projection(audio)[0]
    report.deviation("embeds", embeds, arrays[f"audio_embeds_{name}"])
    reference = arrays[f"first_logits_{name}"]
    canvas = blank_canvas([len(reference)], decoder.special)
    logits = decoder.canvas_logits(prefix, canvas.tokens, canvas.lengths)
    report.deviation("logits", logits[0], reference)
    if f"hyp_ids_{name}" not in arrays.files:
        return
    ids = torch.from_numpy(arrays[f"hyp_ids_{name}"])[None]
    pads = torch.full_like(ids, decoder.special.eos)
    lengths = torch.tensor([ids.shape[1]])
    log_probs = decoder.canvas_logits(prefix, pads, lengths).log_softmax(dim=-1)
    confidence = log_probs.gather(-1, ids[..., None]).exp().flatten()
    report.deviation("confidence", confidence, arrays[f"hyp_confidence_{name}"])


def _options(
    case: dict, kind: type[SamplerOptions] = ReleaseSamplerOptions
) -> SamplerOptions:
    common = {"steps": case["steps"], "tail": 0}
    if case["mode"] == "decoding":
        length = case["gen_len"]
        blocks = length // case["block_length"]
        return kind("semi_ar", canvas_length=length, num_blocks=blocks, **common)
    if case["mode"] == "semi_ar_deliberation":
        return kind("deliberation_semi_ar", num_blocks=case["num_chunks"], **common)
    strategy = f"deliberation_{case['masking_type']}"
    return kind(strategy, mask_ratio=case["mask_ratio"], **common)


def _run(
    decoder: LMDecoder, prefix: Prefix, case: dict, options: SamplerOptions
) -> SamplerResult:
    if options.deliberates:
        ids = decoder.encode_texts([case["hyp"]])
        canvas = transcript_canvas(ids, decoder.special)
    else:
        canvas = blank_canvas([options.canvas_length], decoder.special)
    logits_fn = decoder.passes(decoder, prefix, canvas.lengths)
    run = release_sample if isinstance(options, ReleaseSamplerOptions) else sample
    return run(logits_fn, canvas, options, decoder.special)


def _check_case(decoder: LMDecoder, prefix: Prefix, case: dict) -> str | None:
    """What differs, or None."""
    if "error" in case:  # the release crashed: the transcript comes back unchanged
        given = decoder.encode_texts([case["hyp"]])[0]
        for kind in (ReleaseSamplerOptions, SamplerOptions):
            result = _run(decoder, prefix, case, _options(case, kind))
            if problem := _unequal(result.tokens[0].tolist(), given):
                return f"{kind.__name__}: {problem}"
        return None
    result = _run(decoder, prefix, case, _options(case))
    if problem := _unequal(result.tokens[0].tolist(), case["ids"]):
        return problem
    passes = int(result.passes)
    return (
        None if passes == case["forwards"] else f"{passes} passes, {case['forwards']}"
    )


def _check_loss(
    report: Report, decoder: LMDecoder, prefixes: list[Prefix], case: dict
) -> None:
    parts = ("embeds", "valid", "positions", "start")
    parts = (torch.cat([getattr(p, part) for p in prefixes]) for part in parts)
    prefix = Prefix(*parts, OutputHead(decoder.lm))
    rows = transcript_canvas(decoder.encode_texts(case["text"]), decoder.special)
    masked = torch.tensor(case["mask"], dtype=torch.bool)
    # The release's canvas: the longest transcript, EOS behind shorter ones.
    lengths = rows.lengths.max().expand(len(masked))
    tokens = rows.tokens.masked_fill(masked, decoder.special.mask)
    t = masked.float().mean(dim=1)
    canvas = NoisyCanvas(tokens, rows.tokens, lengths, masked, t)
    logits = decoder.canvas_logits(prefix, tokens, lengths)
    ours = float(diffusion_loss(logits, canvas, "release", logits_nll).mean)
    # An empty mask is NaN there and 0 here.
    reference = case["loss"] if math.isfinite(case["loss"]) else 0.0
    report.deviation("loss", (ours - reference) / (abs(reference) or 1.0), 0.0)


def _unequal(ours: list[int], reference: list[int]) -> str | None:
    if ours == reference:
        return None
    first = next(
        (i for i, (a, b) in enumerate(zip(ours, reference, strict=False)) if a != b),
        min(len(ours), len(reference)),
    )
    return f"token {first} of {len(ours)} and {len(reference)} differs"


def main(args: list[str]) -> int:
    if len(args) != 1 or not (Path(args[0]) / "reference_outputs.json").is_file():
        sys.stderr.write("usage: check_parity.py DIR (with reference_outputs.json)\n")
        return 2
    report = check(Path(args[0]))
    sys.stdout.writelines(f"{line}\n" for line in report.lines())
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
