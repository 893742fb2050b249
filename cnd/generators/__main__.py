"""``python -m cnd.generators convert model.ckpt --output weights/cin256-v2``: once, before the first run.

``python -m cnd.generators list`` tells which there are, and what each needs.

The folder's name goes to stdout, progress to stderr. Exit code 2: bad input, told in one line.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from safetensors import SafetensorError

from cnd.errors import UserError
from cnd.generators.ldm import SETUP


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cnd.generators", description="Pre-trained generators.")
    commands = parser.add_subparsers(dest="command", required=True)
    setup = SETUP.format(path="weights/cin256-v2")
    text = f"Write the published cin256-v2 checkpoint as a diffusers folder, once. {setup}"
    convert = commands.add_parser("convert", help="cin256-v2's model.ckpt to a diffusers folder", description=text)
    convert.add_argument("checkpoint", type=Path, metavar="CKPT", help="the published model.ckpt")
    convert.add_argument("--config", type=Path, help="the config.yaml beside it; by default cin256-v2's own settings")
    convert.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    commands.add_parser(
        "list", help="which generators there are: classes, images, licence, and how data goes with them"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(argv)
    if options.command == "list":
        from cnd.generators.listing import lines

        print("\n".join(lines()))
        return 0
    try:
        from cnd.generators.convert import convert as run  # loads torch

        run(options.checkpoint, options.config, options.output.absolute(), lambda line: print(line, file=sys.stderr))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        print(f"error: {options.output}: cannot be written ({reason}); name another --output", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
