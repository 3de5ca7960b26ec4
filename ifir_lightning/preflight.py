"""Whether all ranks are about to do the same: settings, data, versions, and the checkpoint that they continue."""

import socket
from collections.abc import Mapping
from typing import Any

from ifir_lightning import distributed
from ifir_lightning.errors import InputError

_MOST_SHOWN = 3


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Compare what every rank knows under the same names; all ranks call it.

    Raises:
        InputError: On every rank; it names the first rank that differs from rank 0, and in what.
    """
    (host, expected), *others = distributed.gather_objects((socket.gethostname(), dict(facts)))
    for rank, (other_host, found) in enumerate(others, start=1):
        differing = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        if differing:
            named = ", ".join(
                f"{key} is {found.get(key)!r} and {expected.get(key)!r}" for key in differing[:_MOST_SHOWN]
            )
            more = f" and {len(differing) - _MOST_SHOWN} more" if len(differing) > _MOST_SHOWN else ""
            raise InputError(
                f"rank {rank} on {other_host} differs from rank 0 on {host}: {named}{more}; allowed is the same on "
                "all ranks: give every node the same recipe, data, libraries and view of the run folder"
            )
