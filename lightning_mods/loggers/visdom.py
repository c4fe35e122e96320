"""`VisdomLogger`: shows a run on a Visdom server while it trains. Lightning has none of its own (its issue #3288)."""

import atexit
import html
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import requests
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from callbacks.loggers.base import Drawing, Histogram
from lightning_mods.console.terminal import say
from lightning_mods.loggers import VISDOM_BUILD

POINTS = 10_000  # of a line; with more, every second one goes: a screen has fewer columns


@dataclass
class Line:
    """Points of one line.

    Attributes:
        xs: Steps.
        ys: Values; NaN is a gap.
        sent: How many of them the server has.
        thinned: How often every second one went; the server's line is then another.
    """

    xs: list[float] = field(default_factory=list)
    ys: list[float] = field(default_factory=list)
    sent: int = 0
    thinned: int = 0

    def add(self, x: float, y: float) -> None:
        """Add a point."""
        self.xs.append(x)
        self.ys.append(y)
        if len(self.xs) > POINTS:
            self.xs, self.ys = self.xs[::2], self.ys[::2]
            self.sent, self.thinned = 0, self.thinned + 1


@dataclass(frozen=True)
class Points:
    """Points of a line that the server lacks.

    Attributes:
        window: Which window.
        name: Which line in it.
        xs: Steps.
        ys: Values.
        how: `create` the window with this line, `append` to the line (or a new one), or `replace` it.
        end: How many points of the line the server has then.
        thinned: Of the line, when this was made.
    """

    window: str
    name: str
    xs: list[float]
    ys: list[float]
    how: str
    end: int
    thinned: int


@dataclass(frozen=True)
class Pane:
    """A window that is shown anew as a whole.

    Attributes:
        window: Which window.
        kind: `text` (HTML), `image` (pixels `[height, width, 3]`), `svg` or `bars` (a Histogram).
        content: What is in it.
        caption: Line below or beside it.
    """

    window: str
    kind: str
    content: Any
    caption: str = ""


class Windows:
    """All windows of a run; a training thread fills them, another one sends them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lines: dict[str, dict[str, Line]] = {}
        self._panes: dict[str, Pane] = {}
        self._shown: dict[str, Pane] = {}  # what the server has of them
        self._created: set[str] = set()  # windows with lines that the server has
        self._before: dict[tuple[str, str], list[tuple[float, float]]] = {}  # lines of the process that came before

    def point(self, window: str, name: str, x: float, y: float) -> None:
        """Add a point to a line."""
        with self._lock:
            lines = self._lines.setdefault(window, {})
            if name not in lines:
                lines[name] = Line()
                self._put_before(window, name, x)
            lines[name].add(x, y)

    def recall(self, window: str, name: str, points: list[tuple[float, float]]) -> None:
        """Points that a server had before this process: those before ours begin are the beginning of the line."""
        with self._lock:
            self._before[window, name] = points
            line = self._lines.get(window, {}).get(name)
            if line is not None:
                self._put_before(window, name, line.xs[0])

    def show(self, pane: Pane) -> None:
        """Show a window in place of what it held."""
        with self._lock:
            self._panes[pane.window] = pane

    def forget_server(self) -> None:
        """The server has nothing of ours."""
        with self._lock:
            self._shown.clear()
            self._created.clear()
            for line in self._all_lines():
                line.sent = 0

    @property
    def is_sent(self) -> bool:
        """Whether the server has everything."""
        with self._lock:
            whole = all(line.sent == len(line.xs) for line in self._all_lines())
            return whole and all(self._shown.get(name) is pane for name, pane in self._panes.items())

    def unsent(self) -> Iterator[Points | Pane]:
        """What the server lacks, piece by piece; each is to be acknowledged by `took` before the next is asked for."""
        with self._lock:
            names = [(window, name) for window, lines in self._lines.items() for name in lines]
            panes = [pane for name, pane in self._panes.items() if self._shown.get(name) is not pane]
        for window, name in names:
            part = self._part(window, name)
            if part is not None:
                yield part
        yield from panes

    def took(self, piece: Points | Pane) -> None:
        """The server has a piece."""
        with self._lock:
            if isinstance(piece, Pane):
                self._shown[piece.window] = piece
                return
            self._created.add(piece.window)
            line = self._lines[piece.window][piece.name]
            if line.thinned == piece.thinned:
                line.sent = piece.end

    def _part(self, window: str, name: str) -> Points | None:
        with self._lock:
            line = self._lines[window][name]
            if line.sent == len(line.xs):
                return None
            how = "create" if window not in self._created else "append" if line.sent or not line.thinned else "replace"
            xs, ys = line.xs[line.sent :], line.ys[line.sent :]
            return Points(window, name, xs, ys, how, len(line.xs), line.thinned)

    def _put_before(self, window: str, name: str, start: float) -> None:
        earlier = [(x, y) for x, y in self._before.pop((window, name), []) if x < start]
        line = self._lines[window][name]
        line.xs, line.ys = [x for x, _ in earlier] + line.xs, [y for _, y in earlier] + line.ys

    def _all_lines(self) -> Iterator[Line]:
        return (line for lines in self._lines.values() for line in lines.values())


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
        mark = f"<!-- {time.time()} -->"
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


STAGES = ("train_", "val_", "test_")
WAIT = 5.0  # seconds that the end of a fit waits for what is not sent yet


class VisdomLogger(Logger):
    """Logs to a Visdom server (https://github.com/fossasia/visdom): curves that grow, texts, pictures, histograms.

    A line is named after its tag, and drawn with those it belongs to: `train_loss` and `val_loss` in the window `loss`,
    all that begins with `grad_norm/` in `grad_norm`. NaN and infinity are gaps. Whatever has `log_image` and the like
    elsewhere is here `write_image(tag, pixels, step)`, `write_text`, `write_moment` (scalars and histograms) and
    `write_graphs`; our callbacks use these. `experiment` is Visdom's own client.

    Training never waits for the server and never fails with it. Another thread sends, with short timeouts; one line
    says if nobody answers. What could not be sent is kept, up to 10 000 points a line (then every second one goes) and
    the latest of each picture and text, and sent when the server is back. A server that was killed and started anew
    gets the whole curves again.

    Args:
        save_dir: Folder for checkpoints and files of the run.
        name: Of the experiment; a folder in `save_dir`.
        version: Of the run; none for the date and time.
        server: Address of the server.
        port: Port of the server.
        env: Visdom's environment, that is the page, of the run; none for `NAME_VERSION`.
        prefix: What all names of metrics begin with, and a `-`.

    Raises:
        ModuleNotFoundError: The package `visdom` is not installed.
    """

    LOGGER_JOIN_CHAR = "-"

    def __init__(
        self,
        save_dir: str | Path = ".",
        name: str = "lightning_logs",
        *,
        version: str | None = None,
        server: str = "http://127.0.0.1",
        port: int = 8097,
        env: str | None = None,
        prefix: str = "",
    ) -> None:
        super().__init__()
        if find_spec("visdom") is None:
            raise ModuleNotFoundError(
                f"VisdomLogger needs the package visdom: pip install 'lightning-mods[visdom]'{VISDOM_BUILD}"
            )
        self._save_dir = str(save_dir)
        self._name = name
        self._version = version or time.strftime("%Y%m%d-%H%M%S")
        self._server = server if "://" in server else f"http://{server}"
        self._port = port
        self._env = env or f"{self._name}_{self._version}"
        self._prefix = f"{prefix}{self.LOGGER_JOIN_CHAR}" if prefix else ""
        self._hyperparameters: dict[str, Any] = {}
        self._refused: set[str] = set()
        self._step = -1  # the latest
        self._windows = Windows()
        self._sender: Any = None
        self._client: Any = None

    # ------------------------------------------------------------------ what Lightning asks

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self._name

    @property
    def version(self) -> str:
        """Version of the run."""
        return self._version

    @property
    def save_dir(self) -> str:
        """Folder for checkpoints and files of the run."""
        return self._save_dir

    @property
    def url(self) -> str:
        """Where a browser finds the run."""
        return f"{self._server.rstrip('/')}:{self._port}/env/{self._env}"

    @property
    def env(self) -> str:
        """Visdom's environment of the run."""
        return self._env

    @property
    def experiment(self) -> Any:
        """A `visdom.Visdom` for the run's environment; what is sent by it is not kept for a server that comes back."""
        if self._client is None:
            self._client = visdom_client(self._server, self._port, self._env, raises=False)
        return self._client

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a point to the line of each metric; without a step at the one after the last."""
        self._step = self._step + 1 if step is None else step
        for tag, value in metrics.items():
            name = f"{self._prefix}{tag}"
            try:
                self._windows.point(_window(name), name, float(self._step), float(value))
            except (TypeError, ValueError):
                self._refuse(name, value)
        self._send()

    def _refuse(self, name: str, value: Any) -> None:
        if name not in self._refused:
            self._refused.add(name)
            self._tell(f"`{name}` is left out, it needs a number and came as a {type(value).__name__}")

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Show settings as a table, beside those that were given before."""
        self._hyperparameters |= dict(params if isinstance(params, Mapping) else vars(params))
        cells = (
            f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(str(value))}</td></tr>"
            for name, value in self._hyperparameters.items()
        )
        self._windows.show(Pane("hyperparameters", "text", f"<table>{''.join(cells)}</table>"))
        self._send()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Send what is left, if the server takes it soon."""
        self.flush(WAIT)

    def flush(self, seconds: float = WAIT) -> bool:
        """Send what is left, and wait for it no longer than this; whether the server has everything."""
        whole = self._sender is None or bool(self._sender.flush(seconds))
        self._speak()
        return whole

    def __getstate__(self) -> dict[str, Any]:
        """Without threads and connections, for processes that are started with a copy."""
        return {**self.__dict__, "_windows": None, "_sender": None, "_client": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """With windows of its own."""
        self.__dict__.update(state, _windows=Windows())

    # ------------------------------------------------------------------ what our callbacks show

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to the line of each tag."""
        self.log_metrics(values, step)

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Add points, and show histograms in place of those before."""
        self.log_metrics(scalars, step)
        for tag, one in histograms.items():
            self._show(Pane(tag, "bars", one, f"step {step}"))

    def write_text(self, tag: str, text: str, step: int) -> None:
        """Show a text as it stands."""
        self._show(Pane(tag, "text", f"<pre>{html.escape(text)}</pre>"))

    def write_image(self, tag: str, pixels: Any, step: int) -> None:
        """Show a picture, an array `[height, width, 3]` of bytes."""
        self._show(Pane(tag, "image", pixels, f"step {step}"))

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """Show graphs as SVG drawings."""
        for tag, graph in graphs.items():
            self._show(Pane(f"graphs/{tag}", "svg", graph.svg()))

    def write_charts(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Nothing: what belongs together is one window already."""

    def write_hyperparameters(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Show settings as a table."""
        self.log_hyperparams(dict(values))

    @rank_zero_only
    def _show(self, pane: Pane) -> None:
        self._windows.show(pane)
        self._send()

    def _send(self) -> None:
        """Let the thread know; it begins with what is sent first, in the process that logs."""
        if self._sender is None:
            client = Client(visdom_client(self._server, self._port, self._env), self._env)
            title = f"<b>{html.escape(self._name)} {html.escape(self._version)}</b><br>{html.escape(self._save_dir)}"
            self._sender = Sender(self._windows, client, title=title)
        self._speak()

    def _speak(self) -> None:
        while self._sender is not None and self._sender.news:
            self._tell(self._sender.news.popleft())

    def _tell(self, text: str) -> None:
        start = f"python -m visdom.server -bind_local -port {self._port}"
        say(
            f"VisdomLogger: {text} at {self._server}:{self._port}; training goes on, and what is logged is kept for a "
            f"server that comes (`{start}`)."
            if text.startswith("no server")
            else f"VisdomLogger: {text}; training goes on."
        )


def _window(tag: str) -> str:
    """The window of a line: what stands before the slash, or the metric without its stage."""
    if "/" in tag:
        return tag.partition("/")[0]
    return next((tag.removeprefix(stage) for stage in STAGES if tag.startswith(stage)), tag)
