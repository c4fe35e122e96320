"""The fit of the best trial by as many processes as its trial had."""

from collections.abc import Sequence
from multiprocessing.connection import Connection

from lightning_mods import fit
from lightning_mods.study_team import Ended, Team
from lightning_mods.terminal import say, speak_as


def fit_on_ranks(count: int, args: Sequence[str]) -> None:
    """Run `fit` on processes of their own: Lightning would start the command of the study again for each rank.

    Args:
        count: How many.
        args: The command line of `fit`.

    Raises:
        SystemExit: With code 1, or that of the rank that failed first.
    """
    with Team(count, _fit, list(args)) as team:
        try:
            while team.is_alive:
                for _, message in team.hear():
                    if isinstance(message, Ended) and message.code:
                        raise SystemExit(max(message.code, 1))
        except KeyboardInterrupt:
            say("stopped; the same command fits it anew.")
            raise SystemExit(1) from None


def _fit(rank: int, pipe: Connection, args: list[str]) -> None:
    speak_as(rank)
    fit.main(args)
