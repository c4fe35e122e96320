"""What all tests share: one thread a process, and an environment that a test cannot leave changed."""

import os

import pytest

# Tests run in two processes on two cores; torch reads this when it is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _same_environment_afterwards():
    """Lightning writes its seed into the environment; the next test shall not find it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
