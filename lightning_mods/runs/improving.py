"""`--improve=N`: fit, do what is advised, fit again; the best by validation is kept, and what made it worse undone."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from callbacks.diagnosis.changes import LEAST_GAIN
from callbacks.diagnosis.words.advice import OPPOSITES, Advice
from callbacks.host.files import replacing
from lightning_mods.loggers.terminal import aligned
from lightning_mods.runs import make_newest

Flags = Mapping[str, str]  # by name, without dashes
RECORD = "improve.json"  # in the folder of the best run


@dataclass(frozen=True)
class ChainedFit:
    """A fit of a chain: what it did otherwise than the first, and what came of it."""

    folder: Path  # of its run
    flags: Flags = field(default_factory=dict)  # that it had beside those of the first
    changes: tuple[str, ...] = ()  # that led to them, by the names of `Change`; the last is its own
    loss: float | None = None  # on the validation rows; None where none came, or it is no number
    error: float | None = None  # standard error of the loss over the rows, where it is known
    verdict: str = ""
    advice: tuple[Advice, ...] = ()

    def is_better(self, than: "ChainedFit") -> bool:
        """Whether its validation loss is lower."""
        return self.level < than.level

    @property
    def level(self) -> float:
        """Return the loss, infinite where there is none."""
        return math.inf if self.loss is None or math.isnan(self.loss) else self.loss


Refit = Callable[[Flags, Advice, ChainedFit], ChainedFit | None]  # None where the fit could not be made


def improve(first: ChainedFit, refit: Refit, times: int) -> list[ChainedFit]:
    """Fit up to `times` again, each time the best so far with the first advice that was not tried; return all fits.

    It ends before when nothing more is expected to gain. After each fit the best is what `best` and `last` mean.
    """
    chain, best = [first], first
    tried: set[tuple[tuple[str, str], ...]] = {()}
    failed: set[str] = set()
    write_record(chain, best)
    for _ in range(times):
        base, advice = _next_step(chain, best, tried, failed)
        if advice is None:
            break
        flags = {**base.flags, **dict(advice.flags)}
        tried.add(_key(flags))
        found = refit(flags, advice, base)
        if found is not None:
            chain.append(found)
        if found is not None and found.is_better(best):
            (best.folder / RECORD).unlink(missing_ok=True)
            best = found
        else:
            failed.add(advice.change)
            make_newest(best.folder)
        write_record(chain, best)
    return chain


def _next_step(
    chain: Sequence[ChainedFit], best: ChainedFit, tried: set[tuple[tuple[str, str], ...]], failed: set[str]
) -> tuple[ChainedFit, Advice | None]:
    """Return from which fit to go on, and with which advice: from the best, unless no verdict on it could be given."""
    judged = [each for each in chain if each is not best and math.isfinite(each.level)]
    others = judged if best.verdict.startswith("unknown") else []
    for base in (best, *sorted(others, key=lambda each: each.level)):
        if (advice := next_advice(base, tried, failed)) is not None:
            return base, advice
    return best, None


def best_of(chain: Sequence[ChainedFit]) -> ChainedFit:
    """Return the fit with the lowest validation loss, of equal ones the first."""
    best = chain[0]
    for each in chain[1:]:
        best = each if each.is_better(best) else best
    return best


def next_advice(best: ChainedFit, tried: set[tuple[tuple[str, str], ...]], failed: set[str]) -> Advice | None:
    """Return the first advice that can be followed by flags, is expected to gain, was not tried and undoes nothing.

    What failed from an earlier fit of the chain comes last.
    """
    open_ones = [
        advice
        for advice in best.advice
        if advice.flags
        and (advice.gain is None or advice.gain >= LEAST_GAIN)
        and advice.change not in _undoing(best)
        and _key({**best.flags, **dict(advice.flags)}) not in tried
    ]
    return min(open_ones, key=lambda advice: advice.change in failed, default=None)


def tried_from(best: ChainedFit, chain: Sequence[ChainedFit]) -> dict[tuple[tuple[str, str], ...], str]:
    """Return the flags of the advice on the best fit that the chain knows already, with a sentence on what it knows."""
    others = {_key(each.flags): each for each in chain if each is not best}
    known = {}
    for advice in best.advice:
        found = others.get(_key({**best.flags, **dict(advice.flags)}))
        if found is not None and advice.flags:
            known[advice.flags] = f"Tried: {_loss(found)} in {found.folder.name}."
        elif advice.change in _undoing(best):
            known[advice.flags] = "That is where it came from."
    return known


def _undoing(fit: ChainedFit) -> set[str]:
    return {OPPOSITES[change] for change in fit.changes if change in OPPOSITES}


def _key(flags: Flags) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(flags.items()))


def chain_table(chain: Sequence[ChainedFit]) -> str:
    """Return a chain as a table in words; a star marks the best."""
    best = best_of(chain)
    rows = [["", "run", "change", "validation loss", "verdict"]]
    for each in chain:
        changed = " ".join(f"--{name}={value}" for name, value in each.flags.items()) or "–"
        rows.append(["*" if each is best else "", each.folder.name, changed, _loss(each), each.verdict or "–"])
    return "\n".join(aligned(rows, left=[0, 1, 2, 4]))


def _loss(fit: ChainedFit) -> str:
    error = "" if fit.error is None or not math.isfinite(fit.error) else f" ± {fit.error:.3g}"
    return "–" if fit.loss is None else f"{fit.loss:.4g}{error}"


def write_record(chain: Sequence[ChainedFit], best: ChainedFit) -> None:
    """Write a chain into the folder of its best run, as JSON."""
    fits = [
        {
            **asdict(each),
            "folder": str(each.folder),
            "loss": _finite(each.loss),
            "error": _finite(each.error),
            "best": each is best,
        }
        for each in chain
    ]
    for each in fits:
        del each["advice"]
    with replacing(best.folder / RECORD) as partial:
        partial.write_text(json.dumps(fits, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
