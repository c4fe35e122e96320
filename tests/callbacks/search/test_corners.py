"""The closing words of a search: which corners of the space have which verdict, and whether the best is at its edge."""

import random

import pytest

from callbacks.search.results import TrialRow, beyond, corners
from callbacks.search.space import parse_space


def trial(number, verdict, value=1.0, state="COMPLETE", cause="", **params):
    values = () if value is None else (value,)
    return TrialRow(number, state, params, values, attrs={"verdict": verdict, "cause": cause})


def rates(count=20):
    return [10.0 ** (-4 + 4 * at / (count - 1)) for at in range(count)]


def test_each_verdict_is_told_by_the_range_it_falls_in():
    words = ["underfit"] * 6 + ["good"] * 9 + ["diverged"] * 5
    rows = [
        trial(at, word, lr=lr, batch_size=8 << at % 3) for at, (word, lr) in enumerate(zip(words, rates(), strict=True))
    ]
    assert corners(rows) == [
        "6 underfit, 9 good, 5 diverged",
        "underfits: lr up to 0.001129 (6 of 6 trials)",
        "diverges: lr from 0.1438 (5 of 5 trials)",
    ]


def test_a_stray_trial_does_not_hide_a_corner_and_is_counted():
    words = ["underfit"] * 5 + ["good", "underfit"] + ["good"] * 13
    rows = [trial(at, word, lr=lr) for at, (word, lr) in enumerate(zip(words, rates(), strict=True))]
    assert corners(rows)[1:] in (
        ["underfits: lr up to 0.0006952 (5 of 5 trials)"],
        ["underfits: lr up to 0.001833 (6 of 7 trials)"],
    )


def test_where_one_range_does_not_tell_two_together_do():
    space = [(lr, size) for lr in rates(10) for size in (8, 16, 32, 64)]
    rows = [
        trial(at, "diverged" if lr > 0.1 and size <= 16 else "good", lr=lr, batch_size=size)
        for at, (lr, size) in enumerate(space)
    ]
    (line,) = corners(rows)[1:]
    assert line == "diverges: lr from 0.1292 with batch_size up to 16 (6 of 6 trials)"


def test_a_category_is_a_corner_too():
    rows = [trial(at, "overfit" if at % 3 == 0 else "good", act=["tanh", "relu", "gelu"][at % 3]) for at in range(18)]
    assert corners(rows) == ["12 good, 6 overfit", "overfits: act tanh (6 of 6 trials)"]


def test_what_is_nearly_everywhere_is_said_so_and_how_much_of_it_was_pruned():
    words = ["underfit"] * 9 + ["good"]
    rows = [
        trial(at, word, lr=lr)
        for at, (word, lr) in enumerate(zip(words, [1, 3, 5, 7, 9, 8, 6, 4, 2, 5.5], strict=True))
    ]
    rows[0] = trial(0, "underfit", state="PRUNED", cause="still_improving", lr=1)
    assert corners(rows) == [
        "9 underfit (1 pruned while the loss still fell), 1 good",
        "underfits: nearly everywhere (9 of 10 trials)",
    ]


def test_verdicts_that_fall_at_random_name_no_corner():
    draw, said = random.Random(0), 0
    for _ in range(100):
        rows = [
            trial(at, draw.choice(["underfit", "good", "good", "overfit"]), lr=draw.random(), rows=draw.randint(3, 8))
            for at in range(30)
        ]
        said += len(corners(rows)) > 1
    assert said <= 5


def test_trials_without_a_verdict_say_nothing():
    assert corners([TrialRow(0, "FAIL", {"lr": 0.1})]) == []
    assert corners([trial(0, "unknown", lr=0.1), trial(1, "good")]) == ["1 good, 1 unknown"]


# ------------------------------------------------------------------ the edge of the space


def said(space, best, *others, high=False, count=9):
    """What is said where these are the values of the best trial and of those next to it."""
    space = {name: parse_space(text) for name, text in space.items()}
    rows = [trial(at, "good", float(-at if high else at), **params) for at, params in enumerate([best, *others])]
    rows += [trial(at, "good", -99.0 if high else 99.0, **others[-1]) for at in range(len(rows), count)]
    flags = lambda wider: " ".join(f"--space.{name}='{text}'" for name, text in wider.items())  # noqa: E731
    return beyond(rows[0], rows, space, high=high, flags=flags)


@pytest.mark.parametrize("high", [False, True])
def test_a_best_trial_at_the_edge_of_the_space_says_what_looks_further(high):
    told = said({"lr": "log 1e-4..1"}, {"lr": 0.98}, {"lr": 0.5}, {"lr": 0.3}, high=high)
    assert told == (
        "the best trial lies at the edge of the space, lr 0.98 (upper end of log 0.0001..1.0): "
        "--space.lr='log 0.0001..10' looks further"
    )


def test_several_edges_make_one_command():
    space = {"lr": "log 1e-4..1", "batch_size": "pow2 16..512", "dropout": "0..0.5"}
    at = {"lr": 1.1e-4, "batch_size": 16, "dropout": 0.49}
    told = said(space, at, at, at)
    assert told.endswith(
        "--space.lr='log 1e-05..1' --space.batch_size='pow2 8..512' --space.dropout='0..0.75' looks further"
    )


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("log 1e-4..1", [0.5, 0.9, 0.9]),  # the best is within
        ("log 1e-4..1", [0.98, 0.01, 0.5]),  # where the next best lie it does not matter
        ("0..0.5", [0.0, 0.01, 0.02]),  # a natural bound
        ("1..5", [1, 1, 1]),
        ("0.0..1.0", [1.0, 1.0, 0.9]),
        ("[relu, tanh, gelu]", ["gelu", "gelu", "gelu"]),
        ("[0.1, 0.2]", [0.2, 0.2, 0.2]),  # one of two is always at an edge
        ("0.3", [0.3, 0.3, 0.3]),
    ],
)
def test_nothing_is_said_of_an_edge_that_is_none(text, values):
    assert not said({"x": text}, *({"x": value} for value in values))


def test_a_list_of_numbers_has_a_largest():
    space = {"hidden_sizes": [[8], [64], [64, 64], [128, 128]]}
    largest, other = {"hidden_sizes": [128, 128]}, {"hidden_sizes": [8]}
    assert "--space.hidden_sizes='[…]' looks further" in said(space, largest, largest, largest)
    assert not said(space, largest, largest, other)


def test_of_few_trials_nothing_is_said():
    assert not said({"lr": "log 1e-4..1"}, {"lr": 0.98}, {"lr": 0.5}, {"lr": 0.3}, count=7)


@pytest.mark.parametrize(
    ("text", "up", "further"),
    [
        ("1..5", True, "1..9"),
        ("4..8", False, "2..8"),
        ("log 4..64", True, "log 4..128"),
        ("0.2..0.9", True, "0.2..0.95"),
        ("0.2..0.9", False, "0.1..0.9"),
        ("0.5..3.0", True, "0.5..4.25"),
        ("-1.0..1.0", False, "-2..1"),
        ("pow2 1..8", False, ""),
        ("0.0..1.0", True, ""),
    ],
)
def test_a_wider_space_can_be_searched(text, up, further):
    assert parse_space(text).wider(up=up) == further
    if further:
        parse_space(further)
