"""What can be known of Ray's machines before trials wait there: silent waits become one line."""

from __future__ import annotations

import re
import socket
from typing import Any

from cnd.errors import UserError, in_one_line

SECONDS = 5.0
TOKEN = (
    "the cluster wants a token: RAY_AUTH_MODE=token, with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on its head "
    "(`ray get-auth-token` prints it there)"
)


def check_reachable(address: str | None) -> None:
    """Before Ray is started or joined.

    Raises:
        UserError: nothing answers at the address; or, without one, this machine cannot connect to itself.
    """
    if address is None:
        _check_loopback()
        return
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)
    if found is None:
        return  # auto, or another word of Ray's
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--ray-address {address}: does not answer ({error}); start the cluster (`ray start --head`), or correct "
            "the address"
        ) from error


def _check_loopback() -> None:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), SECONDS).close()
    except OSError as error:
        raise UserError(
            f"this machine cannot connect to itself at 127.0.0.1 ({error}), by which Ray's processes talk; bring the "
            "loopback interface up (`ip link set lo up`), or start the container with it"
        ) from error


def refused(address: str | None, error: Exception) -> UserError:
    """What to say where Ray could not be started, or a cluster not be joined."""
    told = in_one_line(error)
    where = "Ray could not be started" if address is None else f"--ray-address {address}: could not be joined"
    return UserError(f"{where} ({told[:300]})" + (f"; {TOKEN}" if re.search("auth|token", told, re.I) else ""))


def check_room(nodes: list[dict[str, Any]], gpus: float) -> None:
    """After Ray has started.

    Args:
        nodes: as ``ray.nodes()`` lists them.
        gpus: that a trial wants.

    Raises:
        UserError: no machine has as many, so that all trials would wait for ever.
    """
    most = max((node["Resources"].get("GPU", 0.0) for node in nodes if node["Alive"]), default=0.0)
    if gpus > most:
        raise UserError(f"--gpus-per-trial {gpus:g}: no machine of the cluster has more than {most:g}")
