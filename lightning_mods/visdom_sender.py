"""Sends a run's windows to a Visdom server from a thread of its own; when the server goes, training does not notice."""

import atexit
import threading
import time
from collections import deque

from lightning_mods.visdom_client import Client
from lightning_mods.visdom_windows import Pane, Points, Windows

ROUND = 0.5  # seconds between two rounds of sending
SHARE = 0.25  # of the time, that rounds may take
RETRY = 1.0  # seconds until a server that is gone is looked for again
LONGEST = 30.0  # seconds between two rounds, where a server keeps nothing
MARK = "run"  # the window by which it is seen that the server is the one that we know


class Sender:
    """Keeps a server's windows like ours.

    What could not be sent stays in `windows` and is sent when there is a server again. A server that was started anew
    has lost its windows: it no longer shows the mark that was written last, and gets everything again.

    Args:
        windows: What to send.
        client: The server.
        title: HTML for the first window.

    Attributes:
        news: Failures, each once, for whoever speaks to the person at the terminal: what another thread prints is lost
            where training catches what is printed, as it does around `torch.export`.
    """

    def __init__(self, windows: Windows, client: Client, *, title: str) -> None:
        self._windows = windows
        self._client = client
        self._title = title
        self.news: deque[str] = deque()
        self._mark = ""
        self._recalled = False  # whether it was asked what an earlier process of this run has sent
        self._missed = 0  # times in a row that the server had lost what it was sent
        self._said: set[str] = set()
        self._turn = threading.Condition()
        self._asked = 0  # the round that somebody waits for
        self._done = 0  # rounds that somebody waited for and that are over
        self._thread = threading.Thread(target=self._run, name="VisdomLogger", daemon=True)
        self._thread.start()
        atexit.register(self.flush, 2.0)

    def flush(self, seconds: float) -> bool:
        """Send now what is there and wait for it, but no longer than this; whether all of it is on the server."""
        with self._turn:
            self._asked = mine = self._asked + 1
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._done >= mine, timeout=seconds)
        return self._windows.is_sent

    def _run(self) -> None:
        pause = ROUND
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._asked > self._done, timeout=pause)
                asked = self._asked
            began = time.monotonic()
            try:
                self._round()
                pause = max(ROUND * 2**self._missed, (time.monotonic() - began) / SHARE)
            except (OSError, ValueError) as error:  # requests' errors are OSErrors
                self._mark = ""
                self._once("server", f"no server answers ({_line(error)})")
                pause = RETRY
            with self._turn:
                self._done = asked
                self._turn.notify_all()
            pause = min(pause, LONGEST)

    def _round(self) -> None:
        if self._mark and self._client.shows(MARK, self._mark):
            self._missed = 0
            if self._windows.is_sent:
                return
        else:
            self._missed += bool(self._mark)
            self._client.mark(MARK, self._title)  # asks whether there is a server, before all the rest
            if not self._recalled:
                self._recalled = True
                for window, name, points in self._client.lines():
                    self._windows.recall(window, name, points)
            self._windows.forget_server()
        for piece in self._windows.unsent():
            self._send(piece)
            self._windows.took(piece)
        self._mark = self._client.mark(MARK, self._title)

    def _send(self, piece: Points | Pane) -> None:
        try:
            self._client.send(piece)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001  # one window that Visdom cannot draw must not hold up the others
            self._once(piece.window, f"`{piece.window}` cannot be shown ({_line(error)})")

    def _once(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self.news.append(text)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
