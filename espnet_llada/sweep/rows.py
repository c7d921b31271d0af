"""The rows of a sweep: read from YAML, expanded and checked before anything runs.

    baseline: llama                 # the row that the others are compared with
    reference: whisper              # a second line in the figures
    headline: [whisper, llama, diffusion_steps4]      # shown on top of the report
    examples: [lowconf_mask30, diffusion_steps4]      # whose passes the report shows
    published: published.yaml       # error rates to compare with: scoring/published.py
    rows:
      whisper: {label: Whisper's own decoder, system: whisper}
      llama: {label: Whisper-LLaMA, system: llama, config: decode_greedy.yaml}
      diffusion_steps{}:
        label: diffusion, {} passes
        group: Diffusion decoding   # heading in the tables, name in the figures
        system: llada
        config: decode_diffusion.yaml
        each: {steps: [1, 2, 4]}    # one row for each value, a curve over all
      lowconf_mask{percent}:
        label: low confidence, {percent} % masked
        system: llada
        config: deliberate_low_confidence.yaml
        first_pass: llama           # a row above
        options: {steps: 8}         # instead of the config's
        each: {mask_ratio: [0.1, 0.3]}    # of an extension: {joint.weight: [0.3, 0.5]}
      llama_words:                  # the report shows how reliable its confidences are
        {system: llama, config: decode_greedy.yaml, options: {word_times: true}}
      given: {label: another system, system: text}    # what --first_pass names

A row of ``system: llama`` with ``nbest`` is scored by its best text; its list is for
rows over it with ``nbest_rescoring`` or ``canvases: {first_passes: true}``.

For ``espnet-llada bench`` alone: ``train_configs: {llada: train_….yaml}`` at the top
says what ``--model random`` builds; a row may have ``runtime``, one of ``RUNTIMES``,
``weights: int8`` and ``cached_prefix: true``, as if trained so, or be of ``system:
faster_whisper``.

``config``, ``published`` and ``train_configs`` are relative to this file. ``{}`` is the
value of ``each``, ``{percent}`` the same as a percentage.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from espnet_llada.inference.options import (
    GROUPS,
    DecodingOptions,
    all_names,
    hint,
    make_options,
    merged,
    nested,
)
from espnet_llada.inference.options import OPTIONS as DECODING
from espnet_llada.io.files import read_yaml
from espnet_llada.io.schema import LARGEST, checked
from espnet_llada.release.options import ReleaseSamplerOptions
from espnet_llada.scoring.published import Published, read_published
from espnet_llada.types import UserError, nearest

SYSTEMS = ("whisper", "llama", "llada", "text", "faster_whisper")
"""``text``: nothing is decoded, the transcripts are given (``--first_pass``).
``faster_whisper``: a peer of the bench's, in int8 with ``quantize_asr_model``."""
RUNTIMES = ("plain", "static", "graph", "compile")
"""As a user would run it; with shapes and memory that never change; that as one CUDA
graph; with its layers by torch.compile, on a GPU as one CUDA graph."""
_Value = bool | Annotated[int, Meta(ge=-LARGEST, le=LARGEST)]
_Values = Annotated[
    list[_Value | Annotated[float, Meta(ge=-1e9, le=1e9)]], Meta(min_length=1)
]


@dataclass(frozen=True)
class Decoding:
    """What a row's options may say besides the sampler's; see ``asr_inference``."""

    use_audio: bool = True
    output_case: str = "auto"
    batch_size: int = 8
    quantize_asr_model: bool = False


OPTIONS = tuple(f.name for f in fields(Decoding))


class BenchSetup(Struct, frozen=True):
    """What a row may say for the bench alone, see above."""

    runtime: Literal[RUNTIMES] = "plain"
    weights: Literal["", "int8"] = ""
    cached_prefix: bool = False


_BENCH = BenchSetup.__struct_fields__
_PLAIN = BenchSetup()


@dataclass(frozen=True)
class SweepRow:
    """One way to decode.

    Attributes:
        key: names its directory.
        label: in the tables.
        group: heading in the tables, name of the curve; "" for none.
        system: one of ``SYSTEMS``.
        options: of decoding.
        decoding, bench: see there.
        first_pass: key of the row that is deliberated over.
        axis, value: the option that the rows of a curve differ in, and what it is
            here; None for a row that stands alone.
    """

    key: str
    label: str
    group: str
    system: str
    options: DecodingOptions
    decoding: Decoding = Decoding()
    first_pass: str | None = None
    axis: str | None = None
    value: float | None = None
    bench: BenchSetup = _PLAIN

    @property
    def only_for_bench(self) -> bool:
        """Whether it has what a sweep does not know."""
        return self.bench != _PLAIN or self.system == "faster_whisper"


@dataclass(frozen=True)
class Sweep:
    """A checked sweep; the keys below are rows of it.

    ``train_configs``: {system: train config}, for a bench of random weights.
    ``published``: of all rows of the YAML, also where a sweep has only some of them.
    """

    rows: tuple[SweepRow, ...]
    baseline: str | None = None
    reference: str | None = None
    headline: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    train_configs: Mapping[str, Path] = field(default_factory=dict)
    published: Published | None = None

    def row(self, key: str) -> SweepRow:
        """The row of that key."""
        return next(row for row in self.rows if row.key == key)

    def only(self, names: Sequence[str]) -> Sweep:
        """Some rows and the first passes that they need.

        Args:
            names: keys or patterns (``release_*``); ``!NAME`` leaves out. All rows
                where nothing but that is given.

        Raises:
            UserError: there is no such row.
        """
        known = [row.key for row in self.rows]
        keys = {key for key in known if all(name[0] == "!" for name in names)}
        for name in names:
            found = set(fnmatch.filter(known, name.removeprefix("!")))
            if not found:
                hint = nearest(name.removeprefix("!"), known)
                raise UserError(f"--rows {name}: no such row{hint}")
            keys = keys - found if name.startswith("!") else keys | found
        if not keys:
            raise UserError(f"--rows {' '.join(names)}: leaves no row; name some")
        wanted = set(keys)
        for row in reversed(self.rows):  # first passes stand above
            if row.key in wanted and row.first_pass:
                wanted.add(row.first_pass)
        return replace(
            self,
            rows=tuple(row for row in self.rows if row.key in wanted),
            baseline=self.baseline if self.baseline in wanted else None,
            reference=self.reference if self.reference in wanted else None,
            headline=tuple(key for key in self.headline if key in wanted),
            examples=tuple(key for key in self.examples if key in wanted),
        )


class _Entry(BenchSetup, forbid_unknown_fields=True, kw_only=True):
    """A row of the YAML, or the rows of a curve."""

    system: Literal[SYSTEMS]
    label: str | None = None
    group: str = ""
    config: Annotated[str, Meta(min_length=1)] | None = None
    options: dict[str, Any] | None = None
    each: Annotated[dict[str, _Values], Meta(min_length=1, max_length=1)] | None = None
    first_pass: str | None = None


class _Content(Struct, forbid_unknown_fields=True):
    """The YAML."""

    rows: Annotated[dict[str, dict[str, Any]], Meta(min_length=1)]
    baseline: str | None = None
    reference: str | None = None
    headline: list[str] | str = ""
    examples: list[str] | str = ""
    train_configs: dict[str, str] | None = None
    published: Annotated[str, Meta(min_length=1)] | None = None


def read_sweep(path: str | Path) -> Sweep:
    """Read and check a sweep.

    Raises:
        UserError: anything in it that would fail later.
    """
    content = checked(read_yaml(path), _Content, path)
    rows: list[SweepRow] = []
    for key, given in content.rows.items():
        where = f"{path}: row {key}"
        entry = checked(given, _Entry, where)
        for row in _expanded(key, entry, where, Path(path).parent):
            _check(row, rows, f"{path}: row {row.key}")
            rows.append(row)
    keys = [row.key for row in rows]
    for name in ("baseline", "reference", "headline", "examples"):
        for value in _names(getattr(content, name)):
            if value not in keys:
                hint = nearest(value, keys)
                raise UserError(f"{path}: {name}: no row '{value}'{hint}")
    configs = content.train_configs or {}
    _known(configs, SYSTEMS[1:3], f"{path}: train_configs")
    published = None
    if content.published:
        published = read_published(Path(path).parent / content.published, keys)
    return Sweep(
        tuple(rows),
        content.baseline,
        content.reference,
        _names(content.headline),
        _names(content.examples),
        {name: Path(path).parent / file for name, file in configs.items()},
        published,
    )


def _names(value: list[str] | str | None) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list) else (value,) if value else ()


def _known(content: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    for key in content:
        if key not in names:
            raise UserError(f"{where}: unknown key '{key}'{nearest(key, names)}")


def _expanded(key: str, entry: _Entry, where: str, folder: Path) -> Iterator[SweepRow]:
    """The row, or one for each value of ``each``."""
    if entry.each is None:
        yield _row(key, entry, entry.label, {}, where, folder)
        return
    ((axis, values),) = entry.each.items()
    for value in values:
        label = None if entry.label is None else _filled(entry.label, value, where)
        new, place = _filled(key, value, where), f"{where} ({axis}: {value})"
        row = _row(new, entry, label, {axis: value}, place, folder)
        yield replace(row, axis=axis, value=float(value))


def _filled(template: str, value: float, where: str) -> str:
    try:
        return template.format(value, percent=round(100 * value))
    except (LookupError, ValueError, TypeError, AttributeError) as e:
        raise UserError(f"{where}: '{template}' with {value!r}: {e}") from e


def _row(
    key: str,
    entry: _Entry,
    label: str | None,
    more: dict[str, Any],
    where: str,
    folder: Path,
) -> SweepRow:
    try:
        values, decoding = _split(entry, more, folder)
        options = make_options(values)
    except UserError as e:
        raise UserError(f"{where}: {e}") from e
    return SweepRow(
        key=key,
        label=label or key,
        group=entry.group,
        system=entry.system,
        options=options,
        decoding=decoding,
        first_pass=entry.first_pass,
        bench=BenchSetup(*(getattr(entry, name) for name in _BENCH)),
    )


def _split(
    entry: _Entry, more: dict[str, Any], folder: Path
) -> tuple[dict[str, Any], Decoding]:
    """What decode YAML, options and ``each`` say: of decoding, and besides."""
    values: dict[str, Any] = {}
    if entry.config:
        values = read_yaml(folder / entry.config)
        _check_options(values, entry.config)
    for given in (entry.options or {}, nested(more)):
        _check_options(given, "options")
        values = merged(values, given)
    own = {name: values.pop(name) for name in OPTIONS if name in values}
    return values, checked(own, Decoding, "options")


def _check_options(given: Mapping[str, Any], where: str) -> None:
    for key in given:
        if key not in (*DECODING, *GROUPS, *OPTIONS):
            near = hint(key, [*all_names(), *OPTIONS])
            raise UserError(f"{where}: unknown key '{key}'{near}")


def _check(row: SweepRow, above: Sequence[SweepRow], where: str) -> None:
    """What a recognizer would refuse, and what rows have to do with each other."""
    keys, options, bench = [r.key for r in above], row.options, row.bench
    beams = options.search.beam_size
    if row.key in ("", *keys) or "/" in row.key or row.key.startswith("."):
        raise UserError(f"{where}: the key is given twice, or names no directory")
    if row.label in (r.label for r in above):
        raise UserError(f"{where}: label '{row.label}' is given twice")
    if row.system == "whisper" and options != DecodingOptions():
        raise UserError(f"{where}: Whisper's own decoder takes no config or options")
    if row.system == "faster_whisper" and options != DecodingOptions():
        raise UserError(f"{where}: faster_whisper takes quantize_asr_model alone")
    if row.system == "text" and (options, row.decoding) != (
        DecodingOptions(),
        Decoding(),
    ):
        raise UserError(f"{where}: system text decodes nothing; it takes no options")
    if options.deliberates and row.system != "llada":
        raise UserError(f"{where}: strategy {options.strategy} needs system: llada")
    if beams > 1 and row.system != "llama":
        raise UserError(f"{where}: beam_size {beams} needs system: llama")
    if options.search.nbest > 1 and row.system != "llama":
        raise UserError(f"{where}: nbest: a row has one transcript; leave it out")
    timing = options.extensions.get("word_times")
    if timing is not None and timing.calibrated:
        known = "confidences are calibrated by the model's calibration.yaml"
        raise UserError(f"{where}: word_times: {known}; write word_times: true")
    if not row.decoding.use_audio and not options.deliberates:
        raise UserError(f"{where}: without audio there is nothing to transcribe")
    searches = beams > 1 or "joint" in options.extensions
    if bench != _PLAIN and (row.system not in SYSTEMS[1:3] or searches):
        raise UserError(f"{where}: {', '.join(_BENCH)} are for our greedy decoding")
    if bench.runtime != "plain" and isinstance(options.sampler, ReleaseSamplerOptions):
        raise UserError(f"{where}: profile release is measured with runtime: plain")
    if bench.cached_prefix and row.system != "llada":
        raise UserError(f"{where}: cached_prefix needs system: llada")
    if options.deliberates != (row.first_pass is not None):
        wants = "needs" if options.deliberates else "takes no"
        raise UserError(f"{where}: strategy {options.strategy} {wants} first_pass")
    if row.first_pass is not None and row.first_pass not in keys:
        hint = nearest(row.first_pass, keys)
        raise UserError(f"{where}: first_pass: no row '{row.first_pass}' above{hint}")
    lists = [r.key for r in above if r.options.search.nbest > 1]
    if options.wants_nbest and row.first_pass not in lists:
        raise UserError(
            f"{where}: canvases: first_passes, nbest_rescoring: need a first_pass with "
            "nbest: 2 or more"
        )
