import optuna
import pytest

from callbacks.search import SearchError, batch_sizes, decode, parse_space
from callbacks.search.space import grid


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("0..0.5", "0.0..0.5"),
        ("log 1e-6..1e-2", "log 1e-06..0.01"),
        ("-1.5 .. 2", "-1.5..2.0"),
        ("1..5", "1..5"),
        ("-3..3", "-3..3"),
        ("log 1..1024", "log 1..1024"),
        ("pow2 16..512", "pow2 16..512"),
        ("pow2 10..600", "pow2 16..512"),
        ("[[64],[128,128]]", "[[64], [128, 128]]"),
        ("[relu, tanh]", '["relu", "tanh"]'),
        ("[1e-4, 1e-3]", "[0.0001, 0.001]"),
        ("[null, 1, true]", "[null, 1, true]"),
        ("SGD", '["SGD"]'),
        ("0.1", "[0.1]"),
        ([[64], [128]], "[[64], [128]]"),
        (7, "[7]"),
    ],
)
def test_a_dimension_is_read_and_written_so_that_it_reads_the_same(text, written):
    dimension = parse_space(text)
    assert str(dimension) == written
    assert parse_space(str(dimension)) == dimension


@pytest.mark.parametrize(
    ("text", "written"),
    [("0..1", "0.0..1.0"), ("log 1..100", "log 1.0..100.0"), ("pow2 1..8", "pow2 1..8"), ("[0, 1]", "[0, 1]")],
)
def test_of_what_is_a_float_whole_bounds_make_a_range_of_floats(text, written):
    assert str(parse_space(text, floats=True)) == written


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.5..0", "0..0.5"),
        ("log 1..1e-3", "log 1e-3..1"),
        ("log 0..1", "above 0"),
        ("log -1..1", "above 0"),
        ("pow2 17..31", "power of two"),
        ("0..inf", "finite"),
        ("0..1e999", "finite"),
        ("a..b", "no numbers"),
        ("[]", "needs one"),
        ("[1, 2, 1]", "twice"),
        ("[1, [", "none of these"),
        ([object()], "others"),
    ],
)
def test_a_space_that_cannot_be_is_one_line(text, said):
    with pytest.raises(SearchError, match=said) as caught:
        parse_space(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["0..0.5", "log 1e-6..1e-2", "1..5", "log 1..64", "pow2 16..512", "[[64],[128,128]]", "[1, 1.5, null]", "x"]
)
def test_what_is_drawn_is_of_the_space_and_read_back_from_the_study(text):
    space = {"model.it": parse_space(text)}
    dimension = space["model.it"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        value = dimension.suggest(trial, "model.it")
        key = dimension.key("model.it")
        assert trial.distributions == {key: dimension.distribution()}
        assert decode(space, trial.params) == {"model.it": value}
        assert dimension.store(value) == trial.params[key]


def test_a_power_of_two_is_drawn_by_its_exponent():
    study = optuna.create_study()
    drawn = {parse_space("pow2 4..16").suggest(study.ask(), "batch_size") for _ in range(40)}
    assert drawn == {4, 8, 16}
    assert set(study.get_trials()[0].params) == {"log2_batch_size"}


def test_one_and_true_are_two_choices():
    dimension = parse_space([1, True, 1.0])
    assert [type(dimension.value(dimension.store(option))) for option in dimension.options] == [int, bool, float]


@pytest.mark.parametrize(
    ("rows", "smallest", "largest"), [(100_000, 8, 1024), (100, 8, 32), (150, 8, 64), (10, 4, 4), (1, 1, 1)]
)
def test_batch_sizes_stay_within_half_of_the_data(rows, smallest, largest):
    assert batch_sizes(rows).levels(99)[0] == smallest
    assert batch_sizes(rows).levels(99)[-1] == largest


def test_a_grid_spaces_its_levels_and_stays_within_the_points_asked_for():
    space = {"lr": parse_space("log 1e-4..1"), "n": parse_space("1..3"), "act": parse_space("[a, b]")}
    cells = grid(space, 30, seed=1)
    assert len(cells) == len({tuple(cell.values()) for cell in cells}) == 30
    assert sorted({cell["lr"] for cell in cells}) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert {cell["n"] for cell in cells} == {1, 2, 3}
    assert cells == grid(space, 30, seed=1) != grid(space, 30, seed=2)


def test_a_grid_that_must_be_larger_is_shuffled():
    cells = grid({"a": parse_space("0..1"), "b": parse_space("[1,2,3,4]")}, 3, seed=0)
    assert len(cells) == 8
    assert len({cell["b"] for cell in cells[:3]}) > 1
