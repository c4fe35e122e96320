"""Files as people write them are read as they were meant, or refused in one line."""

import warnings

import numpy as np
import pytest
from battery import written
from battery_abroad import NAMES, SAID, written_abroad

from datamodules import DataError, TabularDataModule


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("battery")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what writes them
        return folder, written(folder)


def problems(case, folder, data):
    """What is not as it was meant."""
    meant = case.meant[1] if isinstance(case.meant, tuple) else case.meant
    x, names = data._work.rows("train").x.numpy(), data.feature_names
    if meant and (data.task == "regression") != (case.task == "regression"):
        yield f"a {data.task}"
    for name, value in meant.items():
        if name == NAMES:
            kinds = {column.name: column.kind for column in data.learned.encoding.columns}
            yield from (f"{each} is {kinds.get(each)}" for each in value if kinds.get(each) != "category")
        elif name == "DATE":
            if value not in {c.name for c in data.learned.encoding.columns if c.kind == "date"}:
                yield f"{value} is no date"
        elif name == "LEFT":
            if value not in data.learned.encoding.dropped:
                yield f"{value} is not left out"
        elif name not in names:
            yield f"{name} is no number"
        else:
            found, value = x[:, names.index(name)].astype(float), np.asarray(value, float)
            there = ~np.isnan(value)
            if len(found) != len(value) or np.corrcoef(found[there], value[there])[0, 1] < 0.9999:
                yield f"{name} has other numbers"


def test_every_file_is_read_as_it_was_meant_or_refused_in_a_line(files, monkeypatch):
    folder, cases = files
    monkeypatch.chdir(folder)
    assert len(cases) >= 50
    wrong = []
    for case in cases:
        try:
            data = TabularDataModule(case.path, case.target, val_fraction=0, test_fraction=0, memory_map=False)
            _ = data.description
            found = [] if case.meant == "ERR" else [*problems(case, folder, data)]
            wrong += [f"{case.path}: {each}" for each in found]
            wrong += [f"{case.path} is read"] if case.meant == "ERR" else []
        except DataError as error:
            if case.meant != "ERR" and not isinstance(case.meant, tuple):
                wrong.append(f"{case.path}: {error}")
    assert wrong == []


def test_files_that_were_meant_to_be_hard_are_read_as_they_were_meant_or_it_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = written_abroad(tmp_path)
    assert len(cases) >= 35
    wrong = []
    for case in cases:
        try:
            data = TabularDataModule(case.path, case.target, val_fraction=0, test_fraction=0, memory_map=False)
            said = data.description.replace("\n    ", " ")
            if isinstance(case.meant, tuple) and case.meant[0] == SAID:
                wrong += [f"{case.path}: nothing said of {case.meant[1]}"] if case.meant[1] not in said else []
            else:
                wrong += [f"{case.path}: {each}" for each in problems(case, tmp_path, data)]
        except DataError as error:
            wrong += [] if isinstance(case.meant, tuple) else [f"{case.path}: {error}"]
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "target", "line"),
    [
        ("german_bom.csv", "Preis", "Fläche: numbers written with a decimal comma"),
        ("us_money.csv", "price", "rate: numbers written with the unit '%'"),
        ("dates_us.csv", "price", "sold: dates, the month first"),
        ("late_latin.csv", "price", "text read as cp1252"),
        ("book.xlsx", "price", "sheet 'Sales' is read, the first of 2"),
        ("total.csv", "price", "the last row begins with 'Total'"),
        ("leak.csv", "price", "'price_eur'"),
        ("ids.csv", "price", "identifier: all 168 are different"),
    ],
)
def test_what_was_taken_for_what_is_said(files, name, target, line):
    assert line in TabularDataModule(str(files[0] / name), target).description
