"""Where the ranks of a fit meet that are all on this machine: a store of torch's that no other machine reaches."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_HERE = "127.0.0.1"
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


class LocalRendezvous:
    """Serves the store in which ranks find each other, on 127.0.0.1 alone, for as long as it is referred to.

    Left to itself, rank zero serves it on all interfaces of the machine. Torch lets somebody else serve it, as its
    own `torchrun` does, where the environment says so. Tried on torch 2.13; `tests/end_to_end/test_ddp.py` looks which
    ports are listened on.
    """

    def __init__(self) -> None:
        from torch import distributed  # here, since it takes seconds and one rank needs none

        listener = socket.create_server((_HERE, 0), backlog=1024)
        self.port = int(listener.getsockname()[1])
        store: Any = distributed
        self._store = store.TCPStore(
            _HERE, self.port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables by which ranks find the store, and each other on the loopback interface."""
        found = {"MASTER_ADDR": _HERE, "MASTER_PORT": str(self.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        links = {name: _LOOPBACK for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if name not in os.environ}
        return {**found, **(links if sys.platform != "win32" else {})}


_SERVED: list[LocalRendezvous] = []


@contextmanager
def ranks_meet_here(trainer: Any) -> Iterator[None]:
    """Serve the store for the ranks that a trainer starts, if it starts some and all on this machine."""
    strategy = trainer.strategy
    cluster = getattr(strategy, "cluster_environment", None)
    starts = cluster is not None and not cluster.creates_processes_externally and "MASTER_ADDR" not in os.environ
    if trainer.world_size == 1 or trainer.num_nodes > 1 or not starts:
        yield
        return
    rendezvous = LocalRendezvous()
    _SERVED.append(rendezvous)  # other ranks may end later than this block
    before = {name: os.environ.get(name) for name in rendezvous.environment}
    os.environ.update(rendezvous.environment)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
