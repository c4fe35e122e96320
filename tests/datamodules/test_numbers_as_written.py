"""Numbers as people write them: read back as they were, and by every verb and export alike."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from verbs_here import do, succeed

from datamodules import DataError, TabularDataModule
from datamodules.columns.written import NumberCounts, read_written

SIGNS = st.sampled_from([(".", ","), (",", "."), (",", " "), (",", "\u202f"), (".", "'"), (".", "’"), (",", "")])
UNITS = st.sampled_from(["{}", "{} €", "€{}", "{}%", "{} km", "CHF {}", "{} kg/m²"])


def spelt(value, decimal, thousands):
    text = f"{abs(value):,.2f}".replace(",", "\0").replace(".", decimal).replace("\0", thousands)
    return f"-{text}" if value < 0 else text


@given(st.lists(st.integers(-(10**9), 10**9), min_size=30, max_size=60), SIGNS, UNITS, st.booleans())
def test_numbers_are_read_back_as_they_were(hundredths, signs, unit, parentheses):
    values = np.array([123456789, 5001, *hundredths]) / 100
    cells = []
    for value in values:
        text = spelt(abs(value) if parentheses else value, *signs)
        text = unit.format(text) if not text.startswith("-") else f"-{unit.format(text[1:])}"
        cells.append(f"({text})" if parentheses and value < 0 else text)
    array = pa.array(cells)
    counts = NumberCounts()
    counts.add(array)
    found = read_written(array, counts.written())
    assert found.n_junk == 0
    assert np.array_equal(found.values, np.array([float(f"{value:.2f}") for value in values]))


@pytest.mark.parametrize(
    "cells",
    [
        ["2020-01-05", "2021-07-30"],
        ["01234", "00017"],
        ["1.2.3", "10.0.4"],
        ["18-25", "26-35"],
        ["+49 170 1234567", "+49 30 98765432"],
        ["192.168.0.1", "10.0.0.7"],
        ["A12", "B7"],
        ["12 rue de Rivoli", "8 rue Monge"],
    ],
)
def test_codes_dates_ranges_and_addresses_are_no_numbers_with_signs(cells):
    counts = NumberCounts()
    counts.add(pa.array(cells * 10))
    assert not counts.written()


def test_a_comma_before_three_digits_is_told_by_the_other_cells():
    def written(*cells):
        counts = NumberCounts()
        counts.add(pa.array(cells))
        return counts.written()

    assert written("1,234", "12,5")[:2] == (",", "")
    assert written("1,234", "1,234,567")[:2] == (".", ",")
    assert written("1,234", "2,345")[:2] == (".", ",")
    assert NumberCounts(decimal=",").possible[0] == (",", "")


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A table as Excel writes it in German: semicolons, decimal commas, a mark of the byte order."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    size, price = rng.uniform(40, 200, 200), []
    price = 1000 * size + rng.normal(0, 5000, 200)
    rows = [f"{spelt(s, ',', '.')};{spelt(p, ',', '.')} €" for s, p in zip(size, price, strict=True)]
    (tmp_path / "häuser.csv").write_text("\n".join(["Fläche;Preis", *rows]), encoding="utf-8-sig", newline="\r\n")
    (tmp_path / "neu.csv").write_text("\n".join(["Fläche", *(row.split(";")[0] for row in rows)]), encoding="utf-8-sig")
    return size.round(2), price.round(2)


def test_a_file_with_decimal_commas_is_a_regression_on_the_right_numbers(file):
    size, price = file
    data = TabularDataModule("häuser.csv", "Preis", val_fraction=0, test_fraction=0)
    assert data.task == "regression"
    assert data.target_mean == pytest.approx(price.mean())
    (column,) = data.learned.encoding.columns
    assert column.mean == pytest.approx(size.mean())
    said = data.description
    assert "Fläche: numbers written with a decimal comma" in said
    assert "Preis: numbers written with a decimal comma and a point between thousands and the unit '€'" in said


def test_a_forced_sign_wins_and_two_that_are_one_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x;y\n" + "".join(f"{i},{i:03};{'ab'[i % 2]}\n" for i in range(1, 61)))

    def first(**given):
        data = TabularDataModule(str(path), "y", **given)
        return data.learned.encoding.columns[0].mean

    assert first(decimal=",") == pytest.approx(np.mean([i + i / 1000 for i in range(1, 61)]), rel=0.2)
    assert first(decimal=".") > 1000
    with pytest.raises(DataError, match=r"--data.decimal and --data.thousands must differ"):
        TabularDataModule(str(path), "y", decimal=",", thousands=",")


def test_a_whole_thousand_is_no_one():
    array = pa.array(["1.000", "2.500", "12.000", "1.000.000"])
    counts = NumberCounts()
    counts.add(array)
    assert counts.written() == (",", ".", "")
    assert read_written(array, (",", ".", "")).values.tolist() == [1000, 2500, 12_000, 1_000_000]


def test_no_thousands_stand_before_a_power_of_ten():
    values = np.random.default_rng(0).uniform(1, 900, 60)
    for sign, written in ((",", (",", "", "")), (".", ())):
        counts = NumberCounts()
        cells = pa.array([f"{value:.3E}".replace(".", sign) for value in values])
        counts.add(cells)
        assert counts.written() == written
        assert not counts.ambiguous
        assert read_written(cells, counts.written()).values == pytest.approx(values, rel=1e-3)


@pytest.mark.parametrize("where", ["target", "feature"])
def test_dots_before_three_digits_go_by_the_other_columns_or_are_said(tmp_path, where):
    rng = np.random.default_rng(0)
    people, area = rng.integers(1000, 999_000, 300), rng.uniform(1, 9, 300).round(2)
    table = pd.DataFrame({"people": [f"{x:,}".replace(",", ".") for x in people], "area": area.astype(str)})
    table["flats"] = rng.integers(30, 90_000, 300)
    path, target = tmp_path / "t.csv", "people" if where == "target" else "flats"

    def read(**arguments):
        data = TabularDataModule(str(path), target, val_fraction=0, test_fraction=0, **arguments)
        mean = data.target_mean if where == "target" else data.learned.encoding.columns[0].mean
        return mean / people.mean(), data.description.replace("\n    ", " ")

    table.to_csv(path, index=False, sep=";")
    ratio, said = read()
    assert ratio == pytest.approx(1e-3)
    assert (
        f"people: {table.people[0]!r} is read as a fraction; if it is a thousand and more, --data.thousands=." in said
    )
    ratio, said = read(thousands=".")
    assert ratio == pytest.approx(1)
    assert "is read as a fraction" not in said
    table.assign(area=table.area.str.replace(".", ",")).to_csv(path, index=False, sep=";")
    ratio, said = read()
    assert ratio == pytest.approx(1)
    assert "people: numbers written with a" in said
    assert "--data.decimal=." in said
    assert read(decimal=".")[0] == pytest.approx(1e-3)
    table.to_csv(path, index=False)  # with commas between cells, a point is before the fraction
    ratio, said = read()
    assert ratio == pytest.approx(1e-3)
    assert "is read as a fraction" not in said
    table.assign(people=[f"{x / 1000:.3f}" for x in people - people.min()]).to_csv(path, index=False, sep=";")
    assert "is read as a fraction" not in read()[1]  # as 0.125 tells


@pytest.mark.filterwarnings("default")  # Lightning's CLI and jsonargparse warn of each other
def test_every_verb_and_an_export_read_them_alike(file):
    flags = ("--watch=[]", "--reference=false", "--trainer.max_epochs=2", "--trainer.logger=false")
    succeed("fit", "--data.path=häuser.csv", "--data.target=Preis", *flags)
    succeed("test", "--data.test_path=häuser.csv")
    succeed("predict", "--data.predict_path=neu.csv", "--output=a.csv")
    succeed("export", "--format=pt2", "--output=m.pt2")
    succeed("predict", "--exported=m.pt2", "--data.predict_path=neu.csv", "--output=b.csv")
    one, other = pd.read_csv("a.csv"), pd.read_csv("b.csv")
    assert len(one) == 200
    assert np.allclose(one, other, rtol=1e-5)
    assert do("predict", "--data.predict_path=absent.csv")[0] == 2
