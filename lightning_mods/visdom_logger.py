"""`VisdomLogger`: shows a run on a Visdom server while it trains. Lightning has none of its own (its issue #3288)."""

import html
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from callbacks._board import Drawing, Histogram
from lightning_mods.logger_names import BUILD
from lightning_mods.terminal import say
from lightning_mods.visdom_windows import Pane, Windows

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
                f"VisdomLogger needs the package visdom: pip install 'lightning-mods[visdom]'{BUILD}"
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
            from lightning_mods.visdom_client import visdom_client

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
            from lightning_mods.visdom_client import Client, visdom_client
            from lightning_mods.visdom_sender import Sender

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
