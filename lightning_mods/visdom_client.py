"""What we ask of a Visdom server, through its own client, with an end to all waiting."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from time import time
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import requests

from lightning_mods.visdom_windows import Pane, Points

TIMEOUTS = (2.0, 10.0)  # seconds to connect, and to wait for an answer
LOCAL = ("127.0.0.1", "localhost", "::1")


class Session(requests.Session):  # type: ignore[misc]  # the package has no types
    """Waits for nothing for ever, and takes no proxy to this machine itself.

    Args:
        server: The server's address.
    """

    def __init__(self, server: str) -> None:
        super().__init__()
        self.trust_env = urlsplit(server).hostname not in LOCAL

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """As of any session."""
        kwargs.setdefault("timeout", TIMEOUTS)
        return super().request(*args, **kwargs)


def visdom_client(server: str, port: int, env: str, *, raises: bool = True) -> Any:
    """A `visdom.Visdom` that opens no socket of its own and asks nothing when it is made.

    Args:
        server: Address, with or without `http://`.
        port: Port.
        env: Environment of all windows.
        raises: ConnectionError where there is no server; without, Visdom prints a traceback and goes on.
    """
    import visdom

    class Quiet(visdom.Visdom):  # type: ignore[misc]  # its package has no types
        ours: Session | None = None

        @property
        def session(self) -> Session:
            self.ours = self.ours or Session(self.server)
            return self.ours

    # With `send=True` it would call the server, and warn that no socket is open, in its constructor.
    client = Quiet(server=server, port=port, env=env, raise_exceptions=raises, send=False, use_incoming_socket=False)
    client.send = True
    return client


@dataclass
class Client:
    """Puts windows on a server.

    Args:
        visdom: Visdom's own client.
        env: Environment of all windows.
    """

    visdom: Any
    env: str

    def shows(self, window: str, mark: str) -> bool:
        """Whether a window of the server holds a mark.

        Raises:
            ConnectionError: There is no server.
            ValueError: It is no Visdom server.
        """
        if self.env not in self.visdom.get_env_list():
            return False
        try:
            found = json.loads(self.visdom.get_window_data(win=window, env=self.env))
        except ValueError:
            return False  # closed by hand: the server answers with an error page
        return isinstance(found, dict) and mark in str(found.get("content"))

    def mark(self, window: str, html: str) -> str:
        """Write a window that tells one time from another, and return by what."""
        mark = f"<!-- {time()} -->"
        answer = self.visdom.text(f"{html}{mark}", win=window, env=self.env, opts={"title": window})
        self._checked(answer, window)
        return mark

    def send(self, piece: Points | Pane) -> None:
        """Put a piece on the server."""
        answer = self._points(piece) if isinstance(piece, Points) else self._pane(piece)
        self._checked(answer, piece.window)

    def lines(self) -> Iterator[tuple[str, str, list[tuple[float, float]]]]:
        """Window, name and points of the lines that the server has.

        Raises:
            ValueError: It is no Visdom server.
        """
        found = json.loads(self.visdom.get_window_data(win=None, env=self.env))
        for window, held in found.items():
            content = held.get("content")
            for line in content.get("data", []) if isinstance(content, dict) else []:
                if str(line.get("type")).startswith("scatter"):
                    points = zip(line["x"], line["y"], strict=True)
                    yield window, str(line["name"]), [(float(x), np.nan if y is None else float(y)) for x, y in points]

    def _points(self, piece: Points) -> Any:
        ys = np.asarray(piece.ys, dtype=float)
        ys[~np.isfinite(ys)] = np.nan  # JSON has no infinity
        more: dict[str, Any] = {} if piece.how == "create" else {"update": piece.how}
        opts = {"title": piece.window, "xlabel": "step", "showlegend": True}
        return self.visdom.line(
            Y=ys,
            X=np.asarray(piece.xs, dtype=float),
            win=piece.window,
            env=self.env,
            name=piece.name,
            opts=opts,
            **more,
        )

    def _pane(self, pane: Pane) -> Any:
        opts = {"title": pane.window, "caption": pane.caption}
        where = {"win": pane.window, "env": self.env, "opts": opts}
        if pane.kind == "text":
            return self.visdom.text(pane.content, **where)
        if pane.kind == "svg":
            return self.visdom.svg(svgstr=pane.content, **where)
        if pane.kind == "image":
            return self.visdom.image(np.transpose(pane.content, (2, 0, 1)), **where)
        edges = np.asarray(pane.content.edges)
        return self.visdom.bar(X=np.asarray(pane.content.counts), Y=(edges[1:] + edges[:-1]) / 2, **where)

    @staticmethod
    def _checked(answer: Any, window: str) -> None:
        """A server that did what it was asked answers with the window's name."""
        if str(answer) == "win does not exist":
            raise ConnectionError("the server has lost its windows")
        if str(answer) != window:
            raise ValueError(f"the server answers {str(answer)[:80]!r}")
