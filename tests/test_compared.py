"""The page that compares shows the scripts as they are."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks are scripts, no installed package

from benchmarks.compared.__main__ import WHO, code_of, lines_of, shortened, written

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "compared.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", WHO)
def test_the_page_shows_the_code_that_ran_and_what_it_printed(name):
    assert f"<!-- code {name} -->\n```python\n{code_of(name)}\n```\n<!-- end -->" in PAGE
    assert f"| {name} | {lines_of(code_of(name))} | 0." in PAGE
    assert len(PAGE.split(f"<!-- output {name} -->\n```text\n")[1].split("```")[0].splitlines()) >= 5


def test_epochs_lines_are_left_out_but_for_the_first_and_last():
    lines = ["begin", *[f"epoch {i}: loss 1" for i in range(1, 11)], "end"]
    assert shortened("\n".join(lines)).splitlines() == [*lines[:3], "…", *lines[9:]]


def test_writing_replaces_what_stands_between_the_marks_and_nothing_else():
    page = "a\n<!-- table -->\nold\n<!-- end -->\nb\n<!-- code x -->\nkept\n<!-- end -->\n"
    assert written(page, {"table": "new"}) == page.replace("old", "new")


def test_every_file_the_page_links_to_is_there():
    links = [part.split(")")[0] for part in PAGE.split("](")[1:]]
    assert links
    assert all((ROOT / "docs" / link).exists() for link in links)
