"""What becomes of a column follows from what its training rows hold."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from datamodules.columns.cells import kind_of
from datamodules.columns.choosing import MAX_CATEGORIES, choose_encoding, min_rows_for_category
from datamodules.columns.encoding import CategoryColumn, NumericColumn
from datamodules.columns.summary import ColumnSummary
from datamodules.columns.written import why_no_numbers
from datamodules.errors import DataError
from datamodules.tabular import TabularDataModule


def choose(values, *, forced=False, dropped=None):
    """Encode one column `c` beside a plain numeric one, so that something is always left."""
    array = values if isinstance(values, pa.Array) else pa.array(values)
    found = []
    for name, column in (("c", array), ("plain", pa.array(np.arange(len(array)) * 0.5))):
        found.append(ColumnSummary(name, kind_of(column.type), forced=forced and name == "c"))
        found[-1].add(column, np.arange(len(column)), 0)
    return choose_encoding(found, dict(dropped or {}), label="t.csv", n_rows=len(array))


def column(values, **kwargs):
    return next((c for c in choose(values, **kwargs).columns if c.name == "c"), None)


def reason(values, **kwargs):
    return choose(values, **kwargs).dropped.get("c")


def test_numbers_are_standardised():
    found = column([1.5, 2.0, 2.5])
    assert isinstance(found, NumericColumn)
    assert (found.mean, found.indicator, found.junk) == (2.0, False, False)


@pytest.mark.parametrize("values", [[1.0, None, 3.0], ["1", None, "3"]])
def test_gaps_in_training_rows_bring_an_indicator(values):
    assert column(values).indicator


@pytest.mark.parametrize("junk", ["?", " ", "unknown"])
def test_numbers_with_a_little_junk_are_numbers_and_it_is_said(junk):
    encoding = choose([str(i % 7) for i in range(40)] + [junk])
    found = encoding.columns[0]
    assert isinstance(found, NumericColumn)
    assert found.junk
    assert found.indicator
    assert encoding.notes == (f"c: numbers; 1 cells such as {junk!r} count as missing",)


def test_numbers_with_much_junk_are_categories():
    assert isinstance(column(["1", "2", "x", "y"] * 10), CategoryColumn)


@pytest.mark.parametrize("values", [["a", "b"] * 9, [True, False] * 9, pa.array(["a", "b"] * 9).dictionary_encode()])
def test_names_booleans_and_categoricals_are_categories(values):
    found = column(values)
    assert isinstance(found, CategoryColumn)
    assert len(found.categories) == 2


def test_numbers_are_categories_when_the_user_says_so():
    assert column([3, 1, 3, 1, 2, 2], forced=True).categories == ("1", "2", "3")


def test_what_the_user_names_is_kept_even_if_all_differ():
    assert len(column([f"n{i}" for i in range(300)], forced=True).categories) == MAX_CATEGORIES


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([7.0] * 30, "constant"),
        (["a"] * 30, "constant"),
        ([None] * 30, "all missing"),
        (pa.array([None] * 30, pa.float64()), "all missing"),
        (list(range(1, 31)), "only counts the rows"),
        (pa.array(range(30), pa.timestamp("s")), "date or time"),
        (pa.array([[1]] * 30), "neither numbers nor text"),
        ([f"somebody {i}" for i in range(30)], "text or identifier: all 30 are different"),
        ([f"it was the {i}th" for i in range(30)], "free text: all 30 are different"),
        ([f"n{i}" for i in range(20_001)], "text or identifier: more than 20000 different values"),
    ],
)
def test_a_column_of_no_use_is_left_out_with_its_reason(values, why):
    assert reason(values).startswith(why)


def test_what_would_make_use_of_text_is_said_once(tmp_path):
    table = tmp_path / "t.csv"
    rows = [f"{i % 7},it was the {i}th,and {i} more words,{i % 2}" for i in range(60)]
    table.write_text("\n".join(["x,one,two,y", *rows]))
    text = " ".join(TabularDataModule(table, "y").description.split())
    assert "left out: one, two (free text: " in text
    assert text.count("TfidfVectorizer, then TruncatedSVD") == 1
    table.write_text("\n".join(["one,y", *(f"it was the {i}th,{i % 2}" for i in range(60))]))
    with pytest.raises(DataError, match=r"no column left.*its length or TF-IDF components"):
        _ = TabularDataModule(table, "y").description
    codes = reason([f"no {i}" for i in range(60)])
    assert codes.startswith("text or identifier")


def test_a_rising_amount_is_no_identifier():
    assert isinstance(column([10 * i for i in range(30)]), NumericColumn)


def test_one_number_with_gaps_becomes_the_gap_alone():
    found = column([7.0, None, 7.0])
    assert found.feature_names == ["c is missing"]


def test_one_name_with_gaps_is_a_category_of_two():
    assert column(["yes", None] * 9).feature_names == ["c=yes", "c is missing"]


def test_rare_names_share_a_feature_and_it_is_said():
    encoding = choose(["a"] * 20 + ["b"] * 20 + ["odd", "strange"])
    assert encoding.columns[0].feature_names == ["c=a", "c=b", "c is infrequent"]
    assert encoding.notes == ("rare categories share one feature in c (2 of 4)",)


def test_levels_that_no_training_row_has_do_not_count():
    levels = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 9), pa.array(["a", "b", "never"]))
    assert column(levels).feature_names == ["c=a", "c=b"]
    assert reason(pa.DictionaryArray.from_arrays(pa.array([0] * 9), pa.array(["a", "never"]))) == "constant"


def test_only_the_most_frequent_names_get_a_feature():
    names = [f"n{i:03d}" for i in range(MAX_CATEGORIES + 5)]
    found = column([n for i, n in enumerate(names) for _ in range(2 + (i >= 5))])
    assert found.categories == tuple(names[5:])
    assert found.infrequent


@pytest.mark.parametrize(("rows", "least"), [(20, 2), (1000, 2), (5000, 5), (10**6, 20)])
def test_a_name_needs_more_rows_in_a_larger_table_up_to_twenty(rows, least):
    assert min_rows_for_category(rows) == least


def test_infinities_in_a_used_column_are_an_error_with_their_number_and_place():
    with pytest.raises(DataError, match=r"'c' has 2 infinite values, the first in row 2 "):
        choose([1.0, float("inf"), 2.0, float("-inf")])


def test_no_column_left_is_an_error_that_tells_why():
    found = ColumnSummary("c", "number")
    found.add(pa.array([1.0, 1.0]), np.arange(2), 0)
    with pytest.raises(DataError, match=r"no column left.*c \(constant\)"):
        choose_encoding([found], {"d": "as asked"}, label="t.csv", n_rows=2)


def test_part_of_a_numbered_table_keeps_no_row_numbers(tmp_path):
    rows = [(3 * i + i % 2, (i * 37) % 11, (i * 53) % 7) for i in range(100)]
    path = tmp_path / "part.csv"
    path.write_text("rownames,size,y\n" + "".join(f"{a},{b},{c}.5\n" for a, b, c in rows))
    data = TabularDataModule(str(path), "y")
    assert data.feature_names == ["size"]
    assert "rownames (only counts the rows:" in data.description
    path.write_text("year,size,y\n" + "".join(f"{a},{b},{c}.5\n" for a, b, c in rows))
    assert TabularDataModule(str(path), "y").feature_names == ["year", "size"]


def test_places_in_a_ranking_are_numbers_and_row_numbers_are_none(tmp_path):
    rng = np.random.default_rng(0)
    n = 90
    table = pd.DataFrame(
        {"wealth": rng.permutation(n) + 1, "case": rng.permutation(n) + 1, "pupil_id": 900 + np.arange(n)}
    )
    table["down"], table["seat"] = np.arange(n, 0, -1), 3 + 1.0 * np.arange(n)
    table["y"] = table.wealth + rng.normal(0, 9, n)
    table.to_csv(tmp_path / "t.csv", index=False)
    data = TabularDataModule(str(tmp_path / "t.csv"), "y")
    assert data.feature_names == ["wealth"]
    assert (
        "wealth: whole numbers, as of a ranking; if they only number the rows, --data.drop=[wealth]" in data.description
    )
    kept = TabularDataModule(str(tmp_path / "t.csv"), "y", keep=["down", "pupil_id", "wealth"])
    assert kept.feature_names == ["wealth", "pupil_id", "down"]
    assert "as of a ranking" not in kept.description


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": ["town"]}, r"--data.keep needs columns of numbers; 'town' is none"),
        ({"keep": ["towns"]}, r"--data.keep names 'towns'; .* has .*'town'"),
        ({"keep": ["size"], "drop": ["size"]}, "--data.drop and --data.keep both name 'size'; keep one"),
        ({"keep": ["size"], "categorical": ["size"]}, "--data.categorical and --data.keep both name 'size'; keep one"),
    ],
)
def test_what_cannot_be_kept_is_an_error(tmp_path, arguments, message):
    (tmp_path / "t.csv").write_text("size,town,y\n" + "".join(f"{i % 7},{'ab'[i % 2]},{i}.5\n" for i in range(60)))
    with pytest.raises(DataError, match=message):
        _ = TabularDataModule(str(tmp_path / "t.csv"), "y", **arguments).feature_names


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ([1.5, 8.0, 3.0, 7.5] * 20 + [-99.0] * 4, (-99.0, 4)),
        ([900, 5000, 1200, 3100] * 20 + [9999] * 3, (9999.0, 3)),
        ([20, 51, 33, 48] * 20 + [999, -9] * 5, (999.0, 5)),
        ([20, 51, 33, 48] * 20 + [999] * 2, None),  # may be so
        ([*range(900, 1100)] * 2, None),
        ([*np.linspace(-300, 300, 61), -99, -99, -99, -99], None),
        ([-9.0, -4.0, 3.0, 9.0] * 20, None),
        ([999.0] * 30, None),
    ],
)
@pytest.mark.parametrize("parts", [1, 3])
def test_a_number_far_from_all_others_that_occurs_again_may_mean_missing(values, code, parts):
    found = ColumnSummary("c", "number")
    for start, part in enumerate(np.array_split(np.array(values, dtype=float), parts)):
        found.add(pa.array(part), np.arange(len(part)), start)
    assert found.missing_code == code


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["1/2", "3/4", "1 1/2", "2"], "fractions such as '1/2'"),
        (["<0.05", "0.12", "0.4", "1.5"], "limits such as '<0.05'"),
        ([f"{i} years" for i in range(9)] + ["8 months"], "'8 months' and '0 years' have different units"),
        (["<40", ">=40"], None),
        (["175/70", "185/60"], None),
        (["1. white", "2. black", "3. other"], None),
        (["2014Q1", "2014Q2", "2014Q3", "2014Q4"] * 3, None),
        (["1st", "2nd", "3rd"], None),
        ([], None),
    ],
)
def test_what_keeps_names_from_being_numbers_is_told(names, said):
    why = why_no_numbers(names)
    assert why is None if said is None else why.startswith(said)


def test_a_header_among_the_rows_is_told(tmp_path):
    rows = "".join(f"{i % 9},{'ab'[i % 2]}\n" for i in range(40))
    (tmp_path / "t.csv").write_text("size,kind\n" + rows + "size,kind\n" + rows + "size,kind\n" + rows)
    assert "size, kind: a row holds the names" in TabularDataModule(str(tmp_path / "t.csv"), "kind").description
