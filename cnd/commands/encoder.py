"""``python -m cnd encoder SOURCE TARGET``: a Phase 1 checkpoint rewritten for MinD-Vis, or one of MinD-Vis for us.

python -m cnd encoder SOURCE TARGET --experiment experiments/god.yaml --voxels 4643

SOURCE is either kind (``model.safetensors`` of a Phase 1 stage, ``.pth`` of MinD-Vis). TARGET is written in our layout
where it ends in ``.safetensors``, in MinD-Vis's where it ends in ``.pth``. Where the number of voxels is not the
source's, its positions are interpolated. The experiment's ``encoder.layout`` must be the source's: ``mind_vis`` for
what MinD-Vis trained, which converts exactly in both directions. A network of layout ``cnd`` can be written for
MinD-Vis, but is not computed exactly there, and the command says so.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors import SafetensorError

from cnd.errors import UserError
from cnd.experiment import load_experiment

INEXACT = "encoder.layout = cnd: MinD-Vis computes this network with epsilon 1e-5 in place of 1e-6, so not exactly"


def convert(source: Path, target: Path, experiment: Path, n_voxels: int) -> Path:
    """Read ``source`` into the experiment's autoencoder and write that to ``target``; say where it will not be exact.

    Raises:
        UserError: ``source`` does not fit the experiment, or ``target`` has another ending or cannot be written.
    """
    from safetensors.torch import save_file

    from cnd.decoders.cnd.phase1.checkpoints import export_mindvis, load_initial_weights
    from cnd.decoders.cnd.phase1.model import MaskedAutoencoder

    if target.suffix not in {".safetensors", ".pth"}:
        raise UserError(f"{target}: expected a name ending in .safetensors (ours) or .pth (MinD-Vis's)")
    if n_voxels < 1:
        raise UserError(f"--voxels: expected a number above 0, found {n_voxels}")
    decoder = load_experiment(experiment).decoder
    encoder = getattr(decoder, "encoder", None)
    if encoder is None:
        raise UserError(f"{experiment}: decoder.kind = {decoder.kind}: only 'cnd' has such an encoder")
    model = MaskedAutoencoder(encoder, n_voxels)
    load_initial_weights(model, source)
    try:
        if target.suffix == ".pth":
            export_mindvis(model, target)
            if encoder.layout == "cnd":
                print(INEXACT, file=sys.stderr)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            save_file(model.state_dict(), target)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{target}: cannot be written ({reason}); name another target") from error
    return target
