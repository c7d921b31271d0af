"""``espnet-llada``: transcribe, deliberate, score and convert from the shell."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

from espnet_llada.bin import transcripts
from espnet_llada.bin.decoding import (
    add_decoding_options,
    add_load_options,
    given_options,
    load_options,
)
from espnet_llada.bin.formats import FORMATS, SUBTITLES
from espnet_llada.bin.options import OfKind, OptionParser, run_main, str2bool
from espnet_llada.bin.process import printable
from espnet_llada.core.options import STRATEGIES
from espnet_llada.inference.batches import (
    Outcome,
    Utterance,
    decode_all,
    with_first_pass,
)
from espnet_llada.inference.espnet_options import has_ctc
from espnet_llada.inference.options import DecodingOptions, job_options
from espnet_llada.io.kaldi.table import normal_id
from espnet_llada.io.schema import Count
from espnet_llada.types import (
    UserError,
    check_directory,
    check_not_read,
    check_writable,
    open_stream,
)

DEFAULT_MODEL = "mini"
_OWN_PARSER = ("score", "sweep", "bench", "convert", "features", "plan", "weights")

_RARE = ("lm", "whisper", "trust_model", "quantize_asr_model", "output_case")

_TRANSCRIBE_EXAMPLE = """examples:
  espnet-llada transcribe speech.flac
  espnet-llada transcribe *.flac --strategy semi_ar --num_blocks 4 --output text
  espnet-llada transcribe speech.flac --system llama --model exp/asr_my_llama

Audio: WAV, FLAC, Ogg, MP3, AIFF, … of any rate, channels and length. Without
--model the small English models of this package are used (mini, for clean read
speech); the first time they fetch Whisper tiny.en, 70 MB.
"""
_DELIBERATE_EXAMPLE = """examples:
  espnet-llada transcribe *.flac --system llama --output first_pass
  espnet-llada deliberate --first_pass first_pass *.flac
  espnet-llada deliberate --first_pass first_pass *.flac --strategy random \\
      --mask_ratio 0.5 --output text
"""


def get_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    from espnet_llada import __version__

    parser = OptionParser(
        prog="espnet-llada",
        description="Speech recognition and deliberation with a masked-diffusion LLM.",
        epilog="espnet-llada COMMAND --help shows examples.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    transcribe = _command(
        commands, "transcribe", "speech to text", _TRANSCRIBE_EXAMPLE, "decode"
    )
    transcribe.set_defaults(run=_transcribe)
    deliberate = _command(
        commands,
        "deliberate",
        "correct a first pass by the audio",
        _DELIBERATE_EXAMPLE,
        "deliberate",
    )
    deliberate.add_argument(
        "--first_pass",
        required=True,
        metavar="PATH",
        help="text, decode directory, JSON, CTM, SRT, VTT, TSV or TXT",
    )
    deliberate.add_argument(
        "--use_audio",
        type=str2bool,
        default=True,
        metavar="true|false",
        help="false: no audio for the LM (default: true)",
    )
    deliberate.set_defaults(run=_deliberate)
    # These have parsers of their own; main() passes them everything behind the name.
    for name in _OWN_PARSER:
        summary = _module(name).get_parser().description
        commands.add_parser(name, help=summary, add_help=False)
    return parser


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"espnet_llada.bin.{command}")


def _command(
    commands, name: str, summary: str, example: str, task: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=example,
        usage=f"espnet-llada {name} [options] FILE [FILE ...]",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files")
    parser.add_argument("--config", help="YAML with options, e.g. conf/decode_*.yaml")
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help=f"directory, zip, tag or hub id (default: {DEFAULT_MODEL})",
    )
    add_load_options(parser)
    parser.add_argument(
        "--system",
        default="llada",
        choices=("llada", "llama"),
        help="llama: the autoregressive baseline (default: llada)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write here; a broken-off run goes on from FILE.partial",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        metavar="FORMAT",
        help="text, json, ctm, srt or vtt (default: text)",
    )
    parser.add_argument(
        "--output_case",
        default="auto",
        metavar="CASE",
        help="upper, lower, keep or auto: as the first pass, or upper (default: auto)",
    )
    parser.add_argument(
        "--batch_size",
        type=OfKind(Count),
        default=4,
        metavar="N",
        help="files at once (default: 4)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, … (default: cpu)")
    deliberates = task == "deliberate"
    strategies = [s for s in STRATEGIES if s.startswith("deliberation_") == deliberates]
    add_decoding_options(parser, strategies)
    parser.rare = _RARE + (
        ("canvas_length",) if deliberates else ("mask_ratio", "tail")
    )
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit status.

    Raises:
        UserError: options, files or the model do not fit.
    """
    args = sys.argv[1:] if cmd is None else list(cmd)
    if args and args[0] in _OWN_PARSER:
        return _module(args[0]).main(args[1:]) or 0
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    parsed = get_parser().parse_args(args)
    return parsed.run(parsed)


def entry() -> None:
    """The console script."""
    run_main(main)


def _transcribe(args: argparse.Namespace) -> int:
    utterances = [Utterance(i, path) for i, path in _by_id(args.files).items()]
    return _run(args, "decode", utterances)


def _deliberate(args: argparse.Namespace) -> int:
    from espnet_llada.io.first_pass import read_timed_first_pass

    files = _by_id(args.files)
    given = read_timed_first_pass(args.first_pass, files)
    utterances = [
        Utterance(i, path, given[i].text, given[i] if args.format != "text" else None)
        for i, path in files.items()
    ]
    return _run(args, "deliberate", utterances, use_audio=args.use_audio)


def _by_id(files: list[str]) -> dict[str, str]:
    """{file stem: path}, sorted by id as Kaldi's files are."""
    table: dict[str, str] = {}
    for file in files:
        stem = os.fsencode(Path(file).stem).decode("utf-8", "surrogateescape")
        # A space would end the id, and readers refuse invisible characters.
        utt_id = normal_id(printable("_".join(stem.split()))) or "_"
        if table.setdefault(utt_id, file) != file:
            raise UserError(f"{table[utt_id]} and {file} share an id; rename one")
    return dict(sorted(table.items()))


def _run(
    args: argparse.Namespace,
    task: str,
    utterances: list[Utterance],
    use_audio: bool = True,
) -> int:
    _check(args, utterances)
    from espnet_llada.inference.loading import find_model, load_model
    from espnet_llada.inference.recognizer import Transcriber

    files = find_model(args.model, args.system)
    given = given_options(args)
    if args.format != "text":
        given.setdefault("word_times", True)
    options = job_options(files[0], task, given, use_audio)
    _check_format(args, utterances, files[0], options)
    if options.wants_nbest and options.deliberates:
        utterances = with_first_pass(utterances, args.first_pass, nbest=True)

    def decode(todo: Sequence[Utterance]) -> Iterator[Outcome]:
        if not todo:
            return iter(())
        model = load_model(*files, load_options(args, args.device))
        recognizer = Transcriber(model, options, use_audio, args.output_case)
        return _progress(decode_all(recognizer, todo, args.batch_size), len(todo))

    if not args.output:
        failed = transcripts.write_lines(decode(utterances), sys.stdout, args.format)
    elif not _is_directory(args.output) and (stream := open_stream(args.output)):
        given = args.output, stream, args.format
        failed = transcripts.write_stream(decode(utterances), *given)
    else:
        names = "system device lm whisper quantize_asr_model output_case batch_size"
        names += " format"
        values = {name: getattr(args, name) for name in names.split()}
        values |= {"use_audio": use_audio, "options": asdict(options)}
        identity = transcripts.line_identity(values, utterances, files)
        given = utterances, args.batch_size, identity, decode, args.format
        failed = transcripts.write_file(args.output, *given)
    return 1 if failed else 0


def _check(args: argparse.Namespace, utterances: list[Utterance]) -> None:
    """Check files before the model loads."""
    if not any(os.path.exists(u.path) for u in utterances):
        from espnet_llada.io.audio.reading import load_audio

        load_audio(utterances[0].path)  # raises the reason
    if args.output:
        if args.format in SUBTITLES and _is_directory(args.output):
            check_directory(args.output)
            places = [
                Path(args.output, f"{u.utt_id}.{args.format}") for u in utterances
            ]
        else:
            check_writable(args.output)
            places = [args.output]
        read = (args.config, getattr(args, "first_pass", None))
        for place in places:
            check_not_read(place, (*read, *(u.path for u in utterances)))


def _check_format(
    args: argparse.Namespace,
    utterances: list[Utterance],
    config: Path,
    options: DecodingOptions,
) -> None:
    """Refuse a format that cannot have what it is for."""
    form = args.format
    if options.search.nbest > 1 and form != "json":
        raise UserError(
            f"nbest {options.search.nbest}: --format {form} has one transcript of each "
            "recording; take --format json"
        )
    if form in SUBTITLES and len(utterances) > 1 and not _is_directory(args.output):
        raise UserError(
            f"--format {form}: {len(utterances)} recordings, a file holds one; name a "
            "directory that exists with --output"
        )
    for utterance in utterances:
        if form == "ctm" and utterance.utt_id.startswith(";;"):
            raise UserError(
                f"{utterance.path}: in a CTM lines that begin with ;; are comments; "
                "rename it, or take --format json"
            )
    timed = has_ctc(config) and getattr(args, "use_audio", True)
    timed &= options.extensions.get("word_times") is not None
    known = [u.first_pass for u in utterances if u.first_pass is not None]
    if form == "ctm" and not timed and not (known and all(f.words for f in known)):
        raise UserError(
            "--format ctm: no word times, which a model has by its CTC (decoder_conf: "
            "ctc), from audio; take --format srt or json, or another model"
        )


def _is_directory(output: str | None) -> bool:
    return output is not None and os.path.isdir(output)


def _progress(outcomes: Iterator[Outcome], total: int) -> Iterator[Outcome]:
    from tqdm import tqdm

    # Only on a terminal, and only when it takes more than two seconds.
    return tqdm(outcomes, total=total, unit="utt", delay=2, disable=None, leave=False)


if __name__ == "__main__":
    entry()
