"""What a run's Visdom windows hold: kept whole, so that a server that comes back can be told again."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

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
