"""Rewrite a Phase 1 checkpoint for MinD-Vis, or one of MinD-Vis for us.

python -m cnd.phase1 SOURCE TARGET --experiment experiments/god.yaml --voxels 4643

SOURCE is either kind (``model.safetensors`` of a Phase 1 stage, ``.pth`` of MinD-Vis). TARGET is written in our layout
where it ends in ``.safetensors``, in MinD-Vis's where it ends in ``.pth``. Where the number of voxels is not the
source's, its positions are interpolated. The experiment's ``encoder.layout`` must be the source's: ``mind_vis`` for
what MinD-Vis trained, which converts exactly in both directions. A network of layout ``cnd`` can be written for
MinD-Vis, but is not computed exactly there (:func:`cnd.phase1.checkpoints.to_mindvis`); the command says so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from safetensors import SafetensorError

from cnd.config import load_experiment
from cnd.errors import UserError

INEXACT = "encoder.layout = cnd: MinD-Vis computes this network with epsilon 1e-5 in place of 1e-6, so not exactly"


def convert(source: Path, target: Path, experiment: Path, n_voxels: int) -> None:
    """Read ``source`` into the experiment's autoencoder and write that to ``target``; say where it will not be exact.

    Raises:
        UserError: ``source`` does not fit the experiment, or ``target`` has another ending.
    """
    from safetensors.torch import save_file

    from cnd.phase1.checkpoints import export_mindvis, load_initial_weights
    from cnd.phase1.model import MaskedAutoencoder

    if target.suffix not in {".safetensors", ".pth"}:
        raise UserError(f"{target}: expected a name ending in .safetensors (ours) or .pth (MinD-Vis's)")
    if n_voxels < 1:
        raise UserError(f"--voxels: expected a number above 0, found {n_voxels}")
    model = MaskedAutoencoder(load_experiment(experiment).encoder, n_voxels)
    load_initial_weights(model, source)
    if target.suffix == ".pth":
        export_mindvis(model, target)
        if model.encoder.config.layout == "cnd":
            print(INEXACT)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), target)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, or 2 where the input is at fault."""
    parser = argparse.ArgumentParser(prog="python -m cnd.phase1", description="convert an encoder checkpoint")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--experiment", type=Path, required=True, help="its encoder.* are the network's sizes")
    parser.add_argument("--voxels", type=int, required=True, help="of the patterns the network takes")
    options = parser.parse_args(arguments)
    try:
        convert(options.source, options.target, options.experiment, options.voxels)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        print(f"{options.target}: cannot be written ({reason}); name another target", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
