"""CPU and wall time of a fit: of its epochs, and of what it does before and after them."""

import time
from typing import NamedTuple


class Mark(NamedTuple):
    """A moment: CPU seconds of the whole process, all its threads, and seconds on the wall."""

    cpu: float
    wall: float

    @classmethod
    def now(cls) -> "Mark":
        return cls(time.process_time(), time.perf_counter())

    def since(self, earlier: "Mark", share: float = 1.0) -> "Mark":
        """Return what passed, times `share`."""
        return Mark((self.cpu - earlier.cpu) * share, (self.wall - earlier.wall) * share)


class Stopwatch:
    """Is told when a fit begins, when each of its epochs is over, and when all is.

    An epoch is timed from one epoch's end to the next one's, wherever in its cycle a contender says `lap`: so what it
    does between two epochs counts, and what it does once, before the first epoch's end, does not.
    """

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self.began = self.ended = Mark.now()

    def start(self) -> None:
        """Rows and libraries are loaded; the fit begins."""
        self.began = Mark.now()

    def lap(self) -> None:
        """Say that an epoch is over, its validation included."""
        self.marks.append(Mark.now())

    def stop(self) -> None:
        """The fit has done all that it does."""
        self.ended = Mark.now()

    def result(self, epochs: int) -> dict[str, float]:
        """Return seconds an epoch (the first is not counted) and of all the rest of the fit.

        Raises:
            RuntimeError: The fit had another number of epochs than it was told.
        """
        if len(self.marks) != epochs or epochs < 2:
            raise RuntimeError(f"{epochs} epochs (at least 2) were asked for, {len(self.marks)} came.")
        epoch = self.marks[-1].since(self.marks[0], 1 / (epochs - 1))
        whole = self.ended.since(self.began)
        return {
            "epoch_cpu": epoch.cpu,
            "epoch_wall": epoch.wall,
            "rest_cpu": whole.cpu - epochs * epoch.cpu,
            "rest_wall": whole.wall - epochs * epoch.wall,
        }
