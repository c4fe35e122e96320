"""`VisdomLogger`: shows a run on a Visdom server while it trains. Lightning has none of its own (its issue #3288)."""

import atexit
import html
import json
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, wait
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_only

from callbacks.host.lightning import Logger
from callbacks.loggers.base import Drawing, Histogram, LoggerAdapter
from lightning_mods.loggers import BUILD_VISDOM
from lightning_mods.loggers.terminal import say

ROUND = 0.5  # seconds between two rounds of sending
POINTS = 10_000  # of a line; with more, every second one goes: a screen has fewer columns


class VisdomLogger(Logger, LoggerAdapter):
    """Logs to a Visdom server (https://github.com/fossasia/visdom): curves that grow, texts, pictures, histograms.

    A line is named after its tag, and drawn with those it belongs to: `train_loss` and `val_loss` in the window `loss`,
    all that begins with `grad_norm/` in `grad_norm`. NaN and infinity are gaps.
    Another thread sends: training never waits for the server and never fails with it. What could not be sent is kept,
    up to 10 000 points a line (then every second one goes) and the latest of each picture and text, and sent when the
    server is back; one that was started anew gets the whole curves again.

    Args:
        save_dir: Folder for checkpoints and files of the run.
        name: Of the experiment; a folder in `save_dir`.
        version: Of the run; none for the date and time.
        server: Address of the server.
        port: Port of the server.
        env: Visdom's environment, that is the page, of the run; none for `NAME_VERSION`.
        prefix: What all names of metrics begin with, and a `-`.
    """

    name = version = save_dir = ""  # Lightning's are properties, which cannot be set

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
        if find_spec("visdom") is None:
            raise ModuleNotFoundError(f"VisdomLogger needs visdom: pip install 'lightning-mods[visdom]'{BUILD_VISDOM}")
        self.save_dir, self.name, self.version = str(save_dir), name, version or time.strftime("%Y%m%d-%H%M%S")
        self.env = env or f"{self.name}_{self.version}"
        self._place = (server if "://" in server else f"http://{server}", port, self.env)
        self.url = f"{self._place[0].rstrip('/')}:{port}/env/{self.env}"  # where a browser finds the run
        self._prefix = f"{prefix}-" if prefix else ""
        self._settings: dict[str, Any] = {}
        self._step = -1  # the latest
        self._sender: Sender | None = None
        self._client: Any = None

    @property
    def experiment(self) -> Any:
        """Return a `visdom.Visdom` for the run's page; what it sends is not kept for a server that comes back."""
        self._client = self._client or visdom_client(*self._place, raises=False)
        return self._client

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a point to the line of each metric; without a step at the one after the last."""
        self._step = self._step + 1 if step is None else step
        sender = self._running()
        for tag, value in metrics.items():
            name, kind = f"{self._prefix}{tag}", type(value).__name__
            window = name.partition("/")[0] if "/" in name else re.sub("^(train|val|test)_", "", name)
            try:
                sender.points.append((window, name, float(self._step), float(value)))
            except (TypeError, ValueError):
                sender.news.setdefault(name, f"`{name}` is left out, it needs a number and came as a {kind}")

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Show settings as a table, beside those that were given before."""
        self._settings |= dict(params if isinstance(params, Mapping) else vars(params))
        cells = (f"<td>{html.escape(f'{name}')}<td>{html.escape(f'{value}')}" for name, value in self._settings.items())
        self._show("hyperparameters", "text", text=f"<table><tr>{'<tr>'.join(cells)}</table>")

    def finalize(self, status: str) -> None:
        """Send what is left, if the server takes it soon."""
        self.flush()

    def flush(self, seconds: float = 5.0) -> bool:
        """Send what is left, wait for it no longer than this, and return whether the server has everything."""
        return self._sender is None or self._sender.flush(seconds)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the thread, for processes that are started with a copy."""
        return {**self.__dict__, "_sender": None, "_client": None}

    write_scalars = log_metrics  # type: ignore[assignment]  # it names its parameters otherwise
    write_hyperparameters = log_hyperparams  # type: ignore[assignment]  # and here too

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Add points, and show histograms in place of those before."""
        self.log_metrics(scalars, step)
        for tag, one in histograms.items():
            middles = np.convolve(one.edges, [0.5, 0.5], "valid")
            self._show(tag, "bar", f"step {step}", X=np.asarray(one.counts), Y=middles)

    def write_text(self, tag: str, text: str, step: int) -> None:
        """Show a text as it stands."""
        self._show(tag, "text", text=f"<pre>{html.escape(text)}</pre>")

    def write_image(self, tag: str, pixels: Any, step: int) -> None:
        """Show a picture, an array `[height, width, 3]` of bytes."""
        self._show(tag, "image", f"step {step}", img=np.moveaxis(pixels, -1, 0))

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """Show graphs as SVG drawings."""
        for tag, graph in graphs.items():
            self._show(f"graphs/{tag}", "svg", svgstr=graph.svg())

    @rank_zero_only
    def _show(self, window: str, method: str, caption: str = "", **arguments: Any) -> None:
        self._running().panes[window] = (method, {**arguments, "opts": {"title": window, "caption": caption}})

    def _running(self) -> "Sender":
        if self._sender is None:  # the thread begins with what is sent first, in the process that logs
            title = f"{self.name} {self.version} in {self.save_dir}"
            self._sender = Sender(visdom_client(*self._place), html.escape(title))
        self._sender.tell()
        return self._sender


class Sender:
    """Sends a run's windows; after an error, and where the window `run` has lost its mark, all of them again."""

    def __init__(self, client: Any, title: str) -> None:
        self.points: deque[tuple[str, str, float, float]] = deque()  # window, line, step, value
        self.panes: dict[str, tuple[str, dict[str, Any]]] = {}  # shown as a whole: method of the client and arguments
        self.news: dict[str, str] = {}  # failures by what failed; empty once told
        self._client, self._title = client, title
        self._flushes: deque[Future[bool]] = deque()
        self._wake = threading.Event()
        self._lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
        self._earlier: dict[tuple[str, str], list[tuple[float, float]]] = {}  # of a process before this one
        self._sent: dict[str, dict[str, int]] = {}  # points of each line
        self._shown: dict[str, Any] = {}
        self._mark = ""  # in the window `run`; empty while the server may lack something
        threading.Thread(target=self._run, name="VisdomLogger", daemon=True).start()
        atexit.register(self.flush, 2.0)

    def flush(self, seconds: float) -> bool:
        """Send what is there, wait for it no longer than this, and return whether the server has all of it."""
        asked: Future[bool] = Future()
        self._flushes.append(asked)
        self._wake.set()
        wait([asked], seconds)
        self.tell()
        return asked.done() and asked.result()

    def tell(self) -> None:
        """Print the failures, from the thread that trains: `torch.export` swallows what others print meanwhile."""
        for what, text in self.news.copy().items():
            if text:
                self.news[what] = ""
                say(f"VisdomLogger: {text}; training goes on.")

    def _run(self, pause: float = ROUND) -> None:
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            asked = [self._flushes.popleft() for _ in range(len(self._flushes))]
            began = time.monotonic()
            try:
                self._send()
            except Exception as error:  # noqa: BLE001  # a server can answer anything, and the next one may be better
                self._mark = ""
                start = f"python -m visdom.server -bind_local -port {self._client.port}"
                self.news.setdefault("", f"no server answers ({error!r:.200}), all is kept for one (`{start}`)")
            for one in asked:
                one.set_result(bool(self._mark))
            pause = ROUND + 3 * (time.monotonic() - began)  # a quarter of the time at most

    def _send(self) -> None:
        while self.points:
            window, name, step, value = self.points.popleft()
            line = self._lines.setdefault(window, {}).setdefault(name, [])
            line.append((step, value))
            if len(line) > POINTS:
                del line[1::2]
                self._sent.pop(window, None)
        if not (self._mark and self._mark in self._client.get_window_data("run")):
            mark = str(time.time())
            self._draw("run", "text", text=f"{self._title}<!-- {mark} -->", opts={"title": "run"})
            self._earlier = self._earlier or {
                (window, str(line.get("name"))): list(zip(line.get("x") or [], line.get("y") or [], strict=False))
                for window, held in json.loads(self._client.get_window_data(None)).items()
                for line in (held["content"]["data"] if held["type"] == "plot" else [])
            }
            self._sent, self._shown, self._mark = {}, {}, mark
        for window, lines in self._lines.items():
            for name, line in lines.items():
                sent = self._sent.setdefault(window, {})
                earlier = [] if name in sent else self._earlier.get((window, name), [])
                new = [point for point in earlier if point[0] < line[0][0]] + line[sent.get(name, 0) :]
                if new:
                    xs, ys = np.array(new, dtype=float).T
                    ys[~np.isfinite(ys)] = np.nan  # JSON has no infinity
                    opts = {"title": window, "xlabel": "step", "showlegend": True}
                    self._draw(window, "line", X=xs, Y=ys, name=name, opts=opts, update="append" if sent else None)
                    sent[name] = len(line)
        for window, pane in self.panes.copy().items():
            if self._shown.get(window) is not pane:
                self._draw(window, pane[0], **pane[1])
                self._shown[window] = pane

    def _draw(self, window: str, method: str, **arguments: Any) -> None:
        try:
            answer = getattr(self._client, method)(win=window, **arguments)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            self.news.setdefault(window, f"`{window}` cannot be shown ({error!r:.200})")
            return  # one window that Visdom cannot draw must not hold up the others
        if answer != window:
            raise ValueError(f"the server answers {str(answer)[:80]!r}")


def visdom_client(server: str, port: int, env: str, *, raises: bool = True) -> Any:
    """Return a `visdom.Visdom` that waits for nothing for ever; with `send=True` its constructor asks the server."""
    import requests
    import visdom

    client = visdom.Visdom(server, port=port, env=env, raise_exceptions=raises, send=False, use_incoming_socket=False)
    session = requests.Session()
    session.trust_env = not any(host in server for host in ("127.0.0.1", "localhost", "::1"))  # else a proxy is asked
    client._handle_post = lambda url, data=None: session.post(url, data=data or {}, timeout=(2, 10)).text
    client.send = True
    return client
