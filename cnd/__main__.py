"""What to do with finished runs and trained weights: ``python -m cnd analyse | interventions | export | ...``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cnd.errors import UserError

RUN_ID = "its id in MLflow, the beginning of it, or the trial's name such as 10-seed0"


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 0, 1 where a run made again differs, 2 where the input is at fault."""
    options = _parser().parse_args(argv)
    try:
        told = options.command(options)
        lines, code = told if isinstance(told, tuple) else (told, 0)
        print("\n".join(lines))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return code


def _analyse(options: argparse.Namespace) -> Iterable[str]:
    from cnd.commands.analyse import analyse

    return analyse(*_places(options), options.run_id, options.minus, options.set)


def _interventions(options: argparse.Namespace) -> Iterable[str]:
    from cnd.commands.interventions import interventions

    return interventions(*_places(options), options.run_id)


def _export(options: argparse.Namespace) -> Iterable[str]:
    from cnd.commands.export import export

    return [str(export(*_places(options), options.run_id, options.fold, options.folder))]


def _provenance(options: argparse.Namespace) -> Iterable[str]:
    from cnd.commands.provenance import provenance

    return provenance(*_places(options), options.run_id, options.json)


def _rerun(options: argparse.Namespace) -> tuple[Iterable[str], int]:
    from cnd.commands.provenance import rerun

    return rerun(*_places(options), options.run_id)


def _encoder(options: argparse.Namespace) -> Iterable[str]:
    from cnd.commands.encoder import convert

    return [str(convert(options.source, options.target, options.experiment, options.voxels))]


def _places(options: argparse.Namespace) -> tuple[Path, Path]:
    """Folders of the sweep's output and of its cache."""
    output = options.output.expanduser().absolute()
    return output, options.cache or output / "cache"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cnd", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, told: str) -> Any:
        made = commands.add_parser(name, help=told, description=told, allow_abbrev=False)
        made.set_defaults(command=run)
        return made.add_argument

    add = command("analyse", _analyse, "the linear decoding analysis of a finished run, without training anything")
    add("run_id", metavar="RUN_ID", help=RUN_ID)
    add("--minus", metavar="RUN_ID", help="another run: also draw the difference of the two")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. analysis.noise_seeds=3")
    _of_the_sweep(add)

    add = command(
        "interventions",
        _interventions,
        "score a finished run with its attention to concepts replaced or removed, without training anything",
    )
    add("run_id", metavar="RUN_ID", help=RUN_ID)
    _of_the_sweep(add)

    add = command("export", _export, "the trained decoder of a finished run as a diffusers pipeline")
    add("run_id", metavar="RUN_ID", help=RUN_ID)
    add("folder", metavar="FOLDER", type=Path, help="where to write the pipeline")
    add("--fold", type=int, default=0, metavar="N", help="of a cross-validated run (default: 0)")
    _of_the_sweep(add)

    add = command("provenance", _provenance, "where a finished run comes from: settings, data, code, machine, steps")
    add("run_id", metavar="RUN_ID", help=RUN_ID)
    add("--json", action="store_true", help="print JSON")
    _of_the_sweep(add)

    add = command("rerun", _rerun, "make a finished run again and compare every score: exit code 1 where one differs")
    add("run_id", metavar="RUN_ID", help=RUN_ID)
    _of_the_sweep(add)

    add = command("encoder", _encoder, "rewrite an encoder checkpoint for MinD-Vis, or one of MinD-Vis for us")
    add("source", metavar="SOURCE", type=Path, help="ours (model.safetensors of a Phase 1 stage) or MinD-Vis's (.pth)")
    add("target", metavar="TARGET", type=Path, help="what to write: .safetensors in our layout, .pth in MinD-Vis's")
    add("--experiment", type=Path, required=True, metavar="FILE", help="its encoder.* are the network's sizes")
    add("--voxels", type=int, required=True, metavar="N", help="of the patterns the network takes")
    return parser


def _of_the_sweep(add: Any) -> None:
    add("--output", type=Path, default=Path("runs"), metavar="DIR", help="of the sweep (default: runs/)")
    add("--cache", type=Path, metavar="DIR", help="of the sweep (default: OUTPUT/cache)")


if __name__ == "__main__":
    sys.exit(main())
