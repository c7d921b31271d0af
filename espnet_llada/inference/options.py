"""The options of a decoding: the paper's, and those of extensions by their names."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from espnet_llada.build import EXTENSIONS, named
from espnet_llada.core.options import SamplerOptions
from espnet_llada.io.schema import check_options, checked
from espnet_llada.release.options import ReleaseSamplerOptions
from espnet_llada.types import UserError, nearest

GROUPS = ChainMap({"long_form": "espnet_llada.inference.long_form"}, EXTENSIONS)
"""Options by group: the module that has them as ``Options``."""

PROFILES = {"default": SamplerOptions, "release": ReleaseSamplerOptions}
"""``profile``, by whose sampler a canvas is filled: the other options' class."""

OPTIONS = {f.name: f.default for f in fields(SamplerOptions)} | {"profile": "default"}
"""Every option of no group, and its default."""


@dataclass(frozen=True)
class DecodingOptions:
    """What decoding does.

    Attributes:
        sampler: the paper's options, or those of the published sampler.
        extensions: {group: its options}, of ``GROUPS``.
    """

    sampler: SamplerOptions = field(default_factory=SamplerOptions)
    extensions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def strategy(self) -> str:
        """How a canvas is filled."""
        return self.sampler.strategy

    @property
    def deliberates(self) -> bool:
        """Whether decoding starts from a first-pass transcript."""
        return self.sampler.deliberates

    @property
    def changes_nothing(self) -> bool:
        """Whether deliberation is to mask no share of a transcript, none at all."""
        confidence = self.extensions.get("confidence")
        by_threshold = confidence is not None and confidence.mask_threshold
        return self.deliberates and not (self.sampler.mask_ratio or by_threshold)

    @property
    def max_segment_seconds(self) -> float:
        """The longest piece of a recording that is decoded at once."""
        long_form = self.extensions.get("long_form")
        return 30.0 if long_form is None else long_form.max_segment_seconds


def options_class(group: str) -> type:
    """The dataclass of a group's options."""
    return named(f"{GROUPS[group]}:Options")


def make_options(values: Mapping[str, Any]) -> DecodingOptions:
    """The options of the ``profile`` that is among the values, or of the default one.

    Args:
        values: of ``OPTIONS``; and {group: its options}: ``{}`` or True for its
            defaults, None or False for a group that is not used.

    Raises:
        UserError: an unknown name or a value that does not fit.
    """
    own, groups = {}, {}
    for name, value in values.items():
        if name in GROUPS:
            groups[name] = _group(name, value)
        elif name in OPTIONS:
            own[name] = value
        else:
            hint = nearest(name, [*OPTIONS, *GROUPS])
            known = ", ".join(sorted([*OPTIONS, *GROUPS]))
            raise UserError(f"unknown option '{name}'{hint}; known: {known}")
    profile = own.pop("profile", "default")
    kind = PROFILES[checked(profile, Literal[tuple(PROFILES)], "profile")]
    extensions = {name: groups[name] for name in GROUPS if groups.get(name) is not None}
    if kind is ReleaseSamplerOptions and set(extensions) - {"long_form"}:
        name = next(iter(extensions))
        raise UserError(
            f"{name}: the release (profile: release) has no such; leave it out"
        )
    return DecodingOptions(kind(**own), extensions)


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
    """Options with a dot in their name, as a command has them, by group."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        group, _, option = name.partition(".")
        if not option:
            found[name] = {} if name in GROUPS and value is True else value
    for name, value in values.items():
        group, _, option = name.partition(".")
        if option:
            old = found.get(group)
            found[group] = {**(old if isinstance(old, Mapping) else {}), option: value}
    return found


def merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options that were given over those of a model, group by group."""
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
    """The defaults of a model where a share to be masked is given: no probability."""
    found = dict(defaults)
    asked = {"confidence": given, "mask_ctc": given.get("mask_ctc")}
    for name, values in asked.items():
        old = found.get(name)
        if isinstance(values, Mapping) and "mask_ratio" in values and old:
            found[name] = {k: v for k, v in old.items() if k != "mask_threshold"}
    return found
