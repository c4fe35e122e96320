"""Whatever comes from outside ends in a result or in one line: the corpus of earlier crashes, and some new cases.

`make fuzz` runs many more, with other seeds, and adds what it finds to the corpus.
"""

import pytest
from fuzz_case import CORPUS, Case, faults, place_of, run
from fuzz_kinds import KINDS, use_good_run
from fuzz_seeds import make_good_run
from hypothesis import HealthCheck, given, settings

CASES = 20  # of each kind; the same in every run, so that `make test` says the same twice


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    folder = make_good_run(tmp_path_factory.mktemp("good"))
    use_good_run(folder)
    return folder


def check(case, good):
    outcome = run(case, good)
    found = faults(case, outcome)
    assert not found, f"{found} at {place_of(outcome)}\n{case.verb} {' '.join(case.args)}\n{outcome.err[-3000:]}"


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_what_crashed_once_ends_in_a_result_or_a_line(path, good):
    check(Case.from_json(path.read_text(encoding="utf-8")), good)


@pytest.mark.parametrize("kind", KINDS)
def test_what_nobody_expects_ends_in_a_result_or_a_line(kind, good):
    limits = {"deadline": None, "suppress_health_check": list(HealthCheck)}  # a case takes as long as a fit
    few = settings(max_examples=CASES, database=None, derandomize=True, **limits)
    few(given(KINDS[kind])(lambda case: check(case, good)))()
