"""Decoding options: the core's, the extensions', and the defaults of a model.

A model's defaults are in the ``decode.yaml`` next to its ``config.yaml``:

    decode: {steps: 12, threshold: 0.9}
    deliberate: {mask_ratio: 0.3, steps: 6, joint: {weight: 0.5}}
    semi_ar: {num_blocks: 4, steps: 16}

They apply to ``espnet-llada``, ``Speech2Text`` and ``Deliberator``, ``asr_inference``
and the recipe's stage 12. ``decode`` is for transcription, ``deliberate`` for a first
pass; a section with the name of a strategy is used if that strategy is asked for.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from espnet_llada.core.options import STRATEGIES, SamplerOptions
from espnet_llada.io.files import read_yaml
from espnet_llada.io.schema import check_options, checked, named
from espnet_llada.types import DECODE_FILE, UserError, nearest

EXTENSIONS = {
    "draft_refinement": "espnet_llada.extensions.draft_refinement",
    "canvas_size": "espnet_llada.extensions.canvas_size",
    "mask_ctc": "espnet_llada.extensions.mask_ctc",
    "ctc_fusion": "espnet_llada.extensions.ctc_fusion",
    "confidence": "espnet_llada.extensions.confidence",
    "placeholders": "espnet_llada.extensions.placeholders",
    "joint": "espnet_llada.extensions.joint_decoding",
    "rescoring": "espnet_llada.extensions.rescoring",
    "commit": "espnet_llada.extensions.commit_rules",
    "block_cache": "espnet_llada.extensions.lm_cache",
}
"""Decoding extensions by the name of their option group, in the order in which they
are applied. Each module has ``Options``, a dataclass, and ``Hook``, a
``DecodingHook``."""

_OF_INFERENCE = {
    "long_form": "espnet_llada.inference.long_form",
    "word_times": "espnet_llada.inference.words",
}

WHOLE = {
    "nbest_rescoring": "espnet_llada.extensions.nbest_rescoring",
    "canvases": "espnet_llada.extensions.canvases",
}
"""Extensions that choose the first pass of a decoding, or run it several times; they
have ``Options`` and no hook."""

GROUPS = ChainMap(_OF_INFERENCE, WHOLE, EXTENSIONS)
"""All option groups; the module of each has the options as ``Options``."""

PROFILES = {
    "default": "espnet_llada.core.options:SamplerOptions",
    "release": "espnet_llada.release.options:ReleaseSamplerOptions",
}
"""Sampler options by ``profile``: ours, or those of the published sampler."""


FORMER = {
    "mask_below": "confidence.mask_threshold or mask_ctc.mask_threshold",
    "measuring_passes": "confidence.passes",
    "refine": "draft_refinement.rounds",
    "slots_below": "placeholders.threshold",
    "verify": "rescoring",
    "second_opinion": "rescoring.combination",
    "reader_weight": "joint.weight",
    "tokens_per_second": "canvas_size.tokens_per_second",
    "positions_per_vector": "canvas_size.positions_per_vector",
    "longest_piece": "long_form.max_segment_seconds",
}
"""Former option names; an error message gives the current one."""


@dataclass(frozen=True)
class SearchOptions:
    """Options of Whisper-LLaMA's search, and how many transcripts are given."""

    beam_size: Annotated[int, Meta(ge=1, le=1024, description="1 is greedy")] = 1
    nbest: Annotated[
        int, Meta(ge=1, le=100, description="transcripts of each utterance at most")
    ] = 1

    def __post_init__(self) -> None:
        check_options(vars(self), type(self))


_OWN = (*fields(SamplerOptions), *fields(SearchOptions))
OPTIONS = {f.name: f.default for f in _OWN} | {"profile": "default"}
"""Options outside the groups, and their defaults."""


@dataclass(frozen=True)
class DecodingOptions:
    """All options of a decoding.

    Attributes:
        sampler: the core's options, or those of the published sampler.
        search: options of an autoregressive LM, and ``nbest``.
        extensions: {group: its options}; see ``GROUPS``.
    """

    sampler: SamplerOptions = field(default_factory=SamplerOptions)
    search: SearchOptions = SearchOptions()
    extensions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def strategy(self) -> str:
        """How a canvas is filled."""
        return self.sampler.strategy

    @property
    def profile(self) -> str:
        """``default``, or ``release`` for the published sampler."""
        return getattr(self.sampler, "profile", "default")

    @property
    def deliberates(self) -> bool:
        """Whether decoding starts from a first-pass transcript."""
        return self.sampler.deliberates

    @property
    def changes_nothing(self) -> bool:
        """Whether deliberation masks nothing (ratio and threshold are 0)."""
        confidence = self.extensions.get("confidence")
        by_threshold = confidence is not None and confidence.mask_threshold
        return self.deliberates and not (self.sampler.mask_ratio or by_threshold)

    @property
    def wants_nbest(self) -> bool:
        """Whether the first pass is an n-best list."""
        canvases = self.extensions.get("canvases")
        several = canvases is not None and canvases.first_passes
        return several or "nbest_rescoring" in self.extensions

    @property
    def max_segment_seconds(self) -> float:
        """The longest segment of a recording that is decoded at once (s)."""
        long_form = self.extensions.get("long_form")
        return 30.0 if long_form is None else long_form.max_segment_seconds


def options_class(group: str) -> type:
    """The dataclass of a group's options."""
    return named(f"{GROUPS[group]}:Options")


def full_name(strategy: Any, known: Sequence[str] = STRATEGIES) -> Any:
    """A strategy's full name; ``deliberation_`` may be left out if unambiguous.

    Raises:
        UserError: the name is an extension's.
    """
    if isinstance(strategy, str) and strategy in GROUPS:
        raise UserError(
            f"strategy: {strategy} is an option of its own; write {strategy}: true"
        )
    full = f"deliberation_{strategy}"
    return full if strategy not in known and full in known else strategy


def all_names() -> list[str]:
    """Names of all options, those of groups as ``group.option``."""
    dotted = [f"{g}.{f.name}" for g in GROUPS for f in fields(options_class(g))]
    return [*OPTIONS, *GROUPS, *dotted]


def hint(name: str, known: Iterable[str]) -> str:
    """Hint after an unknown option: why it is none, its current or a similar name."""
    from espnet_llada.inference.espnet_options import ESPNET

    plain = name.lstrip("-")
    if plain in ESPNET:
        return f" (it is ESPnet's; {ESPNET[plain].reason})"
    today = FORMER.get(plain)
    return f" (it is {today} now)" if today else nearest(name, known)


def make_options(values: Mapping[str, Any]) -> DecodingOptions:
    """Check and build the options of a decoding.

    Args:
        values: by the names of ``OPTIONS``; and {group: its options}, ``{}`` or True
            for the group's defaults, None or False to turn it off.

    Raises:
        UserError: an unknown name, or a value that is not allowed.
    """
    own, groups = {}, {}
    for name, value in values.items():
        if name in GROUPS:
            groups[name] = _group(name, value)
        elif name in OPTIONS:
            own[name] = value
        else:
            known = f"; known: {', '.join(sorted([*OPTIONS, *GROUPS]))}"
            raise UserError(
                f"unknown option '{name!s:.80}'{hint(str(name), all_names()) or known}"
            )
    profile = own.pop("profile", "default")
    kind = named(PROFILES[checked(profile, Literal[tuple(PROFILES)], "profile")])
    extensions = {name: groups[name] for name in GROUPS if groups.get(name) is not None}
    if profile == "release" and set(extensions) - _OF_INFERENCE.keys():
        name = next(name for name in extensions if name not in _OF_INFERENCE)
        raise UserError(
            f"{name}: the release (profile: release) has no extensions; leave it out"
        )
    if "strategy" in own:
        own["strategy"] = full_name(own["strategy"])
    search = {f.name: own.pop(f.name) for f in fields(SearchOptions) if f.name in own}
    search = SearchOptions(**check_options(search, SearchOptions))
    if profile == "release" and search.nbest > 1:
        raise UserError("nbest: the release (profile: release) has one; leave it out")
    return DecodingOptions(kind(**check_options(own, kind)), search, extensions)


def _group(name: str, value: Any) -> Any:
    if value is None or value is False:
        return None
    if not isinstance(value, (Mapping, bool)):
        kind = options_class(name)
        if isinstance(value, kind):
            return value
        raise UserError(
            f"{name}: {value!r} does not fit; allowed: 'option: value' lines, true or "
            "false"
        )
    kind, given = options_class(name), {} if value is True else value
    return kind(**check_options(given, kind, name))


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nest options named ``group.option``, as on the command line, by group.

    Raises:
        UserError: a group that is turned off has options.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        group, _, option = name.partition(".")
        if not option:
            found[name] = {} if name in GROUPS and value is True else value
    for name, value in values.items():
        group, _, option = name.partition(".")
        if option:
            old = found.get(group)
            if old is False:
                raise UserError(f"{group}: false leaves nothing to {name}; drop one")
            found[group] = {**(old if isinstance(old, Mapping) else {}), option: value}
    return found


def merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Given options override a model's defaults, group by group."""
    found = dict(defaults)
    for name, value in given.items():
        old = found.get(name)
        if name in GROUPS and isinstance(value, Mapping) and isinstance(old, Mapping):
            value = {**old, **value}
        elif name in GROUPS and value is True and isinstance(old, Mapping):
            value = old
        found[name] = value
    return found


def without_thresholds(
    defaults: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """A model's defaults; a given ``mask_ratio`` replaces their ``mask_threshold``."""
    found = dict(defaults)
    asked = {"confidence": given, "mask_ctc": given.get("mask_ctc")}
    for name, values in asked.items():
        old = found.get(name)
        given_ratio = isinstance(values, Mapping) and "mask_ratio" in values
        if given_ratio and isinstance(old, Mapping):
            found[name] = {k: v for k, v in old.items() if k != "mask_threshold"}
    return found


STRATEGY = {"decode": "diffusion", "deliberate": "deliberation_low_confidence"}
"""The default strategy of each task."""


def job_options(
    config: str | Path, task: str, given: Mapping[str, Any], use_audio: bool = True
) -> DecodingOptions:
    """The user's options over the model's defaults (``model_options``).

    Used by every way to decode with a model, so that all give the same text; rows of a
    sweep or a bench use no defaults of a model.

    Args:
        config: the model's config.yaml.
        task: ``decode`` or ``deliberate``.
        given: the user's options alone; those of ESPnet as in ``espnet_options``.
        use_audio: see ``Transcriber``.

    Raises:
        UserError: decode.yaml, or an option, does not fit.
    """
    if "strategy" in given:
        known = [strategy for strategy in STRATEGIES if task_of(strategy) == task]
        given = {**given, "strategy": full_name(given["strategy"], known)}
    defaults = model_options(config, task, {**given, "use_audio": use_audio})
    if given.get("word_times"):
        from espnet_llada.inference.words import calibration

        # Its confidences are those of the model's own way to decode.
        own = given.keys().isdisjoint({"strategy", "profile"}) and use_audio
        defaults["word_times"] = calibration(config, task, times_alone=not own)
    if not given.keys() <= {*OPTIONS, *GROUPS}:
        from espnet_llada.inference.espnet_options import translated

        given = translated(given, config, defaults.get("beam_size", 1))
    return make_options(merged(defaults, given))


def task_of(strategy: str) -> str:
    """The task of a strategy: ``decode`` or ``deliberate``."""
    return "deliberate" if strategy.startswith("deliberation") else "decode"


def model_options(
    config: str | Path, task: str, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The default options of a model.

    Args:
        config: its config.yaml; the model need not have a decode.yaml.
        task: ``decode`` or ``deliberate``.
        given: the user's options. Another strategy than the task's has defaults of its
            own; the release profile and decoding without audio have none of the
            model's; a given ratio replaces the model's threshold.

    Raises:
        UserError: decode.yaml has an unknown key, or a value that does not fit.
    """
    path, given = Path(config).parent / DECODE_FILE, given or {}
    content = read_yaml(path) if path.exists() else {}
    known = *STRATEGY, *STRATEGIES
    for key in content:
        if key not in known:
            raise UserError(
                f"{path}: unknown key '{key}'{nearest(str(key), known)}; the "
                f"sections are {', '.join(known)}"
            )
    first = task if task in content else STRATEGY[task]
    values = _section(path, content, first, STRATEGY[task])
    if make_options(values).deliberates != (task == "deliberate"):
        raise UserError(
            f"{path}: {task}: strategy {values['strategy']} is not for this"
        )
    if given.get("profile") == "release" or not given.get("use_audio", True):
        return {"strategy": STRATEGY[task]}
    asked = given.get("strategy")
    if asked in STRATEGIES and (asked in content or asked != values["strategy"]):
        values = _section(path, content, asked, asked)
    return without_thresholds(values, given)


def _section(
    path: Path, content: Mapping[str, Any], name: str, strategy: str
) -> dict[str, Any]:
    """The options of a section; ``strategy`` is its default strategy."""
    section = content.get(name) or {}
    if not isinstance(section, dict):
        raise UserError(f"{path}: {name}: expected 'option: value' lines below it")
    if name in STRATEGIES and "strategy" in section:
        raise UserError(f"{path}: {name}: is a strategy; take its 'strategy' out")
    try:
        values = {"strategy": strategy, **section}
        return {**values, "strategy": make_options(values).strategy}
    except UserError as e:
        raise UserError(f"{path}: {name}: {e}") from e
