"""The command ``python -m pmap``: a demo, benchmarks, and the version.

There is no console script called ``pmap``, since Linux has a command of that name.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code.

    Parameters
    ----------
    arguments
        The words after ``python -m pmap``; those of this process without it.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.version:
        print(f"polars-pmap {_version()}")
    elif options.command == "demo":
        return _demo(options.rows, options.backend, options.jobs)
    elif options.command == "bench":
        return _bench(options)
    else:
        parser.print_help()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m pmap", description="A parallel map for Polars.")
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    demo = commands.add_parser("demo", help="map ordinary Python over 336,776 real flights")
    demo.add_argument("--rows", type=_positive, metavar="N", help="the first N flights alone")
    every = "the backends to time (default: auto and all that run on this machine)"
    demo.add_argument("--backend", nargs="+", action="extend", metavar="NAME", help=every)
    demo.add_argument("--jobs", type=_workers, metavar="N", help="workers, as n_jobs")
    _add_bench(commands.add_parser("bench", help="pmap beside what a user would pick instead"))
    return parser


def _add_bench(bench: argparse.ArgumentParser) -> None:
    add = bench.add_argument
    add("--short", action="store_true", help="under three minutes: fewer contenders and rows")
    add("--rows", type=_positive, metavar="N", help="rows of every frame")
    add("--scale", type=_factor, default=1.0, metavar="X", help="a factor of each frame's rows")
    add("--rounds", type=_positive, metavar="N", help="calls on warm workers")
    add("--cold-rounds", type=_positive, metavar="N", help="first calls, each in a new process")
    add("--jobs", type=_positive, metavar="N", help="workers of each contender (default: all CPUs)")
    add("--workloads", nargs="+", default=[], metavar="NAME", help="these alone, as of --list")
    add(
        "--contenders", nargs="+", default=[], metavar="NAME", help="these and the plain loop alone"
    )
    add("--curves-on", default="forkserver", metavar="NAME", help="the backend of the curves")
    add("--timeout", type=_factor, default=600.0, metavar="S", help="seconds a contender may take")
    add("--json", metavar="FILE", help="write all figures there; - is stdout")
    add("--html", metavar="FILE", help="write a page with plots there")
    add("--list", action="store_true", help="print the names of workloads and contenders, and stop")
    add("--profile", action="store_true", help="print where pmap's own time goes instead")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        message = f"must be a whole number, at least 1, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _factor(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        message = f"must be a number above 0, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return number


def _workers(text: str) -> int:
    number = int(text)
    if number == 0:
        message = "0 means nothing: -1 is all CPUs, 1 a single worker"
        raise argparse.ArgumentTypeError(message)
    return number


def _demo(rows: int | None, backends: Sequence[str] | None, jobs: int | None) -> int:
    from pmap import _demo as demo  # noqa: PLC0415 - the demo's needs are its own

    if not demo.is_installed():
        print(demo.HINT, file=sys.stderr)
        return 1
    from pmap._demo._run import run  # noqa: PLC0415 - imports astral

    try:
        return run(rows, backends, jobs)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _bench(options: argparse.Namespace) -> int:
    from pmap._bench import _choice, _profile, _run, _text  # noqa: PLC0415 - nobody else pays

    if options.list:
        print(_text.names(*_choice.descriptions()))
        return 0
    try:
        if options.profile:
            _profile.profile(options.scale, options.jobs)
            return 0
        given = dict(vars(options))
        for other in ("version", "command", "list", "profile"):
            del given[other]
        return _run.run(_choice.Choice(workers=given.pop("jobs"), **given))
    except KeyboardInterrupt:
        print("\nstopped: files have what was measured until then", file=sys.stderr)
        return _INTERRUPTED


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 - slow to import, seldom needed

    return version("polars-pmap")


if __name__ == "__main__":
    raise SystemExit(main())
