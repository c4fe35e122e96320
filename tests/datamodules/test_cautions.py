import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))
from verbs_here import succeed

from datamodules import TabularDataModule
from datamodules.columns.leaks import ranks, told

BUNDLED = ("digits", "iris", "wine", "breast_cancer", "diabetes")


def houses(n=600, seed=0):
    """A healthy table of a regression: columns go with the price, and none tells it."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"area": rng.normal(100, 30, n).round(2), "rooms": rng.integers(1, 7, n)})
    table["town"] = rng.choice(["Ulm", "Bonn", "Kiel"], n)
    table["price"] = (3000 * table.area + 20_000 * table.rooms + rng.normal(0, 30_000, n)).round()
    return table


def warned(tmp_path, table, target, **arguments):
    """The warnings of a table, those that wrap joined."""
    table.to_csv(tmp_path / "table.csv", index=False)
    data = TabularDataModule(str(tmp_path / "table.csv"), target, **arguments)
    lines = data.description.replace("\n    ", " ").splitlines()
    return [line for line in lines if line.startswith("warning: ")]


@pytest.mark.parametrize("table", BUNDLED)
def test_nothing_is_said_of_a_healthy_table(table):
    assert "warning" not in TabularDataModule(table).description


def test_nothing_is_said_of_columns_that_only_go_with_the_target(tmp_path):
    assert warned(tmp_path, houses(), "price") == []


@pytest.mark.parametrize(
    "leak",
    [
        lambda y: y * 1.1,
        lambda y: (y * 1.1 / 1000).round(),
        lambda y: -np.log(y - y.min() + 1000),
        lambda y: y.round(-4).map(
            {v: i for i, v in enumerate(np.random.default_rng(1).permutation(y.round(-4).unique()))}
        ),
        lambda y: y + np.random.default_rng(2).normal(0, 0.02 * y.std(), len(y)),
    ],
    ids=["scaled", "rounded", "monotone", "coded", "noisy"],
)
def test_a_copy_of_the_target_is_named_with_the_flag_that_leaves_it_out(tmp_path, leak):
    table = houses(2000).assign(price_eur=lambda t: leak(t.price))
    (line,) = warned(tmp_path, table, "price", drop=["town"])
    assert "'price_eur' (R² of ranks 0.99" in line or "'price_eur' (R² of ranks 1.0" in line
    assert "leave it out: --data.drop=[town,price_eur]" in line


def test_a_column_that_is_filled_for_one_class_alone_is_named(tmp_path):
    table = houses().assign(sold=lambda t: np.where(t.price > t.price.median(), "yes", "no"))
    table["days_to_sale"] = np.where(table.sold == "yes", np.random.default_rng(3).integers(1, 90, len(table)), np.nan)
    (line,) = warned(tmp_path, table.drop(columns=["price"]), "sold")
    assert "'days_to_sale' (accuracy 1.0000) alone predicts 'sold'" in line


def test_names_of_the_class_in_another_language_are_a_leak(tmp_path):
    flowers = pd.DataFrame({"kind": ["a", "b", "c"] * 60, "size": np.random.default_rng(0).normal(size=180)})
    table = flowers.assign(
        art=flowers.kind.map({"a": "x", "b": "y", "c": "z"}), code=flowers.kind.map({"a": 7, "b": 1, "c": 4})
    )
    (line,) = warned(tmp_path, table, "kind")
    assert "'art' (accuracy 1.0000), 'code' (accuracy 1.0000) alone predict 'kind'" in line


def visits(n=150, each=4, seed=0):
    """Several visits of each patient, who gets one treatment."""
    rng = np.random.default_rng(seed)
    treatment = rng.choice(["drug", "placebo"], n)
    table = pd.DataFrame({"patient": np.repeat(1 + np.arange(n), each), "week": np.tile(np.arange(each), n)})
    return table.assign(pressure=rng.normal(130, 9, len(table)).round(), treatment=np.repeat(treatment, each))


@pytest.mark.parametrize("names", ["numbers", "words", "sorted"])
def test_what_has_several_rows_and_one_target_in_all_is_a_group_and_no_leak(tmp_path, names):
    table = visits(90, 8)  # words of more have no feature each
    if names == "words":
        table["patient"] = table.patient.map("P{:03d}".format)
    if names == "sorted":
        table["treatment"] = np.where(table.patient < 45, "drug", "placebo")
    (line,) = warned(tmp_path, table.sample(frac=1, random_state=0), "treatment")
    assert line.startswith("warning: all rows of one 'patient' have the same 'treatment' (90 groups)")
    assert "--data.group=patient keeps each on one side of the split" in line
    assert "--data.drop=[patient]" in line
    table["baseline"] = table.groupby("patient").pressure.transform("first")
    table = table.drop(columns="treatment").sample(frac=1, random_state=0)
    (line,) = warned(tmp_path, table, "baseline")
    assert "all rows of one 'patient' have the same 'baseline'" in line
    assert warned(tmp_path, table, "baseline", group="patient") == []


def test_a_number_that_the_class_is_a_function_of_is_a_leak_and_no_group(tmp_path):
    table = (
        houses().assign(age=lambda t: (t.area // 3).astype(int)).assign(old=lambda t: np.where(t.age > 30, "yes", "no"))
    )
    (line,) = warned(tmp_path, table[["age", "rooms", "old"]], "old")
    assert "'age' (accuracy 1.0000) alone predicts 'old'" in line


def test_two_series_that_go_on_and_on_do_not_leak_and_a_copy_of_one_does(tmp_path):
    rng = np.random.default_rng(1)
    year = 1900 + np.arange(400) // 4
    gdp, prices = (np.exp(np.cumsum(rng.normal(0.02, 0.02, 400))) for _ in range(2))
    table = pd.DataFrame({"year": year, "prices": prices, "gdp": gdp})
    (line,) = warned(tmp_path, table, "gdp")
    assert "--data.time=year" in line
    (leak, _) = warned(
        tmp_path, table.assign(log_gdp=np.log(gdp).round(3))[["year", "log_gdp", "prices", "gdp"]], "gdp"
    )
    assert "'log_gdp' (R² of ranks 1.0000) alone predicts 'gdp'" in leak


def test_a_copy_of_the_target_is_named_in_a_table_that_is_sorted_by_it(tmp_path):
    table = houses(2000).sort_values("price").assign(price_eur=lambda t: (t.price * 1.1).round(-3))
    (line,) = warned(tmp_path, table, "price")
    assert "'price_eur'" in line


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(2, 400))
def test_a_column_of_noise_tells_nothing_however_many_values_it_has(seed, ordered, values):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, values, 400).astype(float), rng.normal(size=400)
    assert told(x, ranks(y), ordered=ordered).skill < 0.5
    assert told(x, (y > 0).astype(np.int64), ordered=ordered).skill < 0.6


def test_rows_in_training_and_in_test_are_counted(tmp_path):
    table = houses()
    lines = warned(tmp_path, pd.concat([table, table.iloc[:200]]).sample(frac=1, random_state=0), "price")
    (line,) = lines
    assert "also stand among the training rows" in line
    assert "test rows (" in line
    assert "validation rows (" in line


def test_rows_of_a_test_file_that_stand_in_training_are_counted(tmp_path):
    table = houses()
    table.iloc[:90].to_csv(tmp_path / "test.csv", index=False)
    (line,) = warned(tmp_path, table, "price", test_path=str(tmp_path / "test.csv"), val_fraction=0)
    assert "90 of 90 test rows (100%)" in line


def test_equal_rows_of_a_small_table_of_codes_are_natural(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({name: rng.integers(0, 4, 800) for name in "abcd"})
    table["y"] = np.where(table.a + rng.integers(0, 3, 800) > 3, "yes", "no")
    assert warned(tmp_path, table, "y", categorical=list("abcd")) == []


def test_rows_that_few_values_make_equal_are_no_copies_and_copies_of_them_are(tmp_path):
    rng = np.random.default_rng(0)
    health = rng.integers(0, 3, 1500)  # what goes together makes equal rows likelier than chance does
    table = pd.DataFrame({f"q{i}": np.clip(health + rng.integers(0, 2, 1500), 0, 3) for i in range(9)})
    table["age"] = 20 + rng.integers(0, 25, 1500)
    table["visits"] = health + rng.integers(0, 3, 1500)
    assert warned(tmp_path, table, "visits") == warned(tmp_path, table, "visits", bins=8) == []
    many = table.assign(income=rng.normal(3000, 500, 1500).round(2))
    (line,) = warned(tmp_path, pd.concat([many, many.iloc[:300]]).sample(frac=1, random_state=0), "visits")
    assert "also stand among the training rows" in line


def test_rows_with_names_of_their_own_are_no_copies(tmp_path):
    table = pd.concat([houses(300)] * 2).assign(owner=[f"somebody {i}" for i in range(600)])
    assert warned(tmp_path, table, "price") == []
    copied = pd.concat([houses(300).assign(owner=[f"somebody {i}" for i in range(300)])] * 2)
    assert warned(tmp_path, copied.iloc[:500], "price") != []


def test_a_date_column_makes_the_flag_for_a_split_by_time_known(tmp_path):
    table = houses().assign(sold_on=lambda t: pd.date_range("2020-01-01", periods=len(t)).strftime("%Y-%m-%d"))
    (line,) = warned(tmp_path, table, "price")
    assert "--data.time=sold_on holds out the newest" in line


def test_a_table_in_order_of_a_column_of_time_is_told_from_one_that_is_sorted_by_another(tmp_path):
    table = houses().assign(week=lambda t: np.arange(len(t)) // 7)
    assert "--data.time=week" in warned(tmp_path, table, "price")[0]
    assert warned(tmp_path, table.sample(frac=1, random_state=0), "price") == []
    assert warned(tmp_path, houses().sort_values("area"), "price") == []


def test_a_series_without_a_date_is_told_by_neighbours_that_are_alike(tmp_path):
    table = houses(1500)
    walk = np.random.default_rng(5).normal(size=len(table))
    for i in range(1, len(walk)):
        walk[i] += 0.97 * walk[i - 1]
    (line,) = warned(tmp_path, table.assign(price=table.price + 60_000 * walk), "price")
    assert "neighbours in the file are alike in 'price'" in line
    assert "--data.time=COLUMN or --data.group=COLUMN" in line


def test_births_and_times_until_an_event_do_not_tell_when_rows_were(tmp_path):
    born = houses().assign(date_of_birth=lambda t: pd.date_range("1950-01-01", periods=len(t)).strftime("%Y-%m-%d"))
    assert warned(tmp_path, born, "price") == []
    survival = houses().assign(time=lambda t: np.arange(len(t)) // 2, status=lambda t: t.area > 90)
    assert warned(tmp_path, survival, "price") == []
    assert "--data.time=time" in warned(tmp_path, survival.drop(columns="status"), "price")[0]


def test_rows_that_are_sorted_by_and_large_are_no_order_in_time(tmp_path):
    rng = np.random.default_rng(0)
    table = houses().iloc[lambda t: np.argsort(t.price + rng.normal(0, 0.6 * t.price.std(), len(t)))]
    assert warned(tmp_path, table[["rooms", "town", "price"]], "price") == []


@pytest.mark.parametrize("target", ["price", "town"])
def test_rows_that_are_sorted_by_the_target_are_no_order_in_time(tmp_path, target):
    assert warned(tmp_path, houses().sort_values(target), target) == []


def test_a_file_of_another_population_is_told_and_one_of_the_same_is_not(tmp_path):
    table = houses(2000).sample(frac=1, random_state=1)
    new, old = table.iloc[:500], table.iloc[500:]
    path = str(tmp_path / "new.csv")
    new.to_csv(path, index=False)
    assert warned(tmp_path, old, "price", test_path=path) == []
    assert warned(tmp_path, old, "town", test_path=path) == []
    new.assign(price=new.price * 1.3, area=new.area * 2).to_csv(path, index=False)
    lines = warned(tmp_path, old, "price", test_path=path)
    assert any("standard deviations above the training rows'" in line for line in lines)
    assert any("differs from the training rows in 'area'" in line for line in lines)
    new[new.town != "Ulm"].to_csv(path, index=False)
    assert any(
        "0% of class 'Ulm', the training rows 3" in line for line in warned(tmp_path, old, "town", test_path=path)
    )


def test_a_memory_map_shows_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = houses().assign(price_eur=lambda t: t.price * 1.1)
    both = [warned(tmp_path, table, "price", memory_map=mapped, bins=8) for mapped in (False, True)]
    assert both[0] == both[1] != []


def test_a_fit_that_goes_on_does_not_repeat_what_was_said(tmp_path):
    table = houses().assign(price_eur=lambda t: t.price * 1.1)
    table.to_csv(tmp_path / "table.csv", index=False)
    data = TabularDataModule(str(tmp_path / "table.csv"), "price")
    assert "warning: " in data.description
    again = TabularDataModule(str(tmp_path / "table.csv"), "price")
    again.load_state_dict(data.state_dict())
    assert "warning: " not in again.description


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning and jsonargparse warn of each other
def test_the_verb_test_says_that_a_file_is_of_another_population(tmp_path):
    table = houses()
    paths = [str(tmp_path / name) for name in ("table.csv", "same.csv", "other.csv")]
    for path, each in zip(
        paths, (table, houses(seed=1), houses(seed=1).assign(price=lambda t: 2 * t.price)), strict=True
    ):
        each.to_csv(path, index=False)
    place = f"--trainer.default_root_dir={tmp_path}"
    _, said = succeed("fit", f"--data.path={paths[0]}", "--data.target=price", "--trainer.max_epochs=1", place)
    assert "warning: " not in said
    assert "warning: " not in succeed("test", f"--data.test_path={paths[1]}", place)[1]
    assert "another population?" in succeed("test", f"--data.test_path={paths[2]}", place)[1]


def test_a_target_that_is_spread_otherwise_is_told_and_one_of_two_heaps_is_not(tmp_path):
    path = str(tmp_path / "new.csv")
    table, new = houses(2000), houses(500, seed=1)
    middle = table.price.mean()
    new.assign(price=middle + 3 * (new.price - middle)).to_csv(path, index=False)
    assert any("is spread otherwise" in line for line in warned(tmp_path, table, "price", test_path=path))
    heaps = [
        t.assign(price=t.price % 1000 + np.where(np.random.default_rng(seed).random(len(t)) < share, 0, 1e6))
        for seed, t, share in ((0, table, 0.74), (1, new, 0.76))
    ]
    heaps[1].to_csv(path, index=False)
    assert warned(tmp_path, heaps[0], "price", test_path=path) == []


def test_rare_names_that_training_never_saw_are_no_other_population(tmp_path):
    rng = np.random.default_rng(0)
    table = houses(400).assign(
        village=[f"V{v}" for v in rng.integers(0, 400, 400) // rng.choice([1, 40], 400, p=[0.3, 0.7])]
    )
    path = str(tmp_path / "new.csv")
    table.iloc[:120].to_csv(path, index=False)
    assert warned(tmp_path, table.iloc[120:], "price", test_path=path) == []
    table.iloc[:120].assign(village="V999").to_csv(path, index=False)
    (line,) = warned(tmp_path, table.iloc[120:], "price", test_path=path)
    assert "differs from the training rows in 'village'" in line
