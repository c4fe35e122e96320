"""The schema beside an exported model is checked whole, and cannot choose a format that is code."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from export_cases import QUIET, TABLES, fitted_and_exported, refused, succeed

from lightning_mods.export.schema import read_schema
from lightning_mods.runs import RunError

pytestmark = QUIET


class Writes(torch.nn.Module):
    """What a model of a table answers, and a file besides."""

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        zeros = torch.from_file("written", True, 8)
        return torch.full((len(numbers), 2), 0.5) + zeros[0]


ROWS = ("--data.predict_path=new.csv", "--output=out.csv")


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    return fitted_and_exported(tmp_path_factory.mktemp("schema") / "fit", *TABLES[2])


@pytest.fixture(autouse=True)
def _here(fit, monkeypatch):
    monkeypatch.chdir(fit)


def known():
    """What an older schema says: without the checksum, by which every change would be noticed."""
    schema = json.loads(Path("good.pt2.json").read_text())
    schema.pop("checksum", None)
    return schema


def changed(change):
    schema = known()
    made = change(schema)
    return json.dumps(schema if made is None else made)


def at(*path):
    *way, last = path

    def put(value):
        def change(schema):
            for key in way:
                schema = schema[key]
            schema[last] = value

        return changed(change)

    return put


def without(*path):
    *way, last = path

    def change(schema):
        for key in way:
            schema = schema[key]
        del schema[last]

    return changed(change)


def read_as(text):
    Path("bad.pt2").write_bytes(Path("good.pt2").read_bytes())
    Path("bad.pt2.json").write_text(text)
    try:
        return read_schema(Path("bad.pt2"))
    finally:
        Path("bad.pt2").unlink()
        Path("bad.pt2.json").unlink()


COLUMN = ("inputs", 1, "columns", 0)
MUTILATED = {
    "nothing": (lambda: "", "no JSON"),
    "a number": (lambda: "3", "not marked as one"),
    "lists without end": (lambda: "[" * 100_000, "no JSON"),
    "half a character": (lambda: at("outputs", 0, "classes")(["no", "\ud800"]), "no JSON"),
    "not a number": (lambda: at("inputs", 0, "columns", 0, "mean")(float("nan")), "no JSON"),
    "somebody else's": (lambda: json.dumps({"name": "package", "version": 1}), "not marked as one"),
    "another version": (lambda: at("version")(2), "another version"),
    "a format nobody knows": (lambda: at("format")("pickle"), "`format`"),
    "no inputs": (lambda: at("inputs")([]), "its inputs are"),
    "inputs of another kind": (lambda: at("inputs")(7), "`inputs` is 7"),
    "an input twice": (lambda: changed(lambda s: s["inputs"].append(s["inputs"][0])), "its inputs are"),
    "columns that are claimed": (lambda: at("inputs", 0, "shape")(["batch", 10**9]), "1 columns and the shape"),
    "a column without a name": (lambda: without("inputs", 0, "columns", 0, "name"), "lacks `name`"),
    "a column twice": (lambda: at(*COLUMN, "name")("age"), "two of its columns have one name"),
    "codes with a gap": (lambda: at(*COLUMN, "codes")({"a": 0, "b": 2}), "do not count from 0"),
    "codes that are none": (lambda: at(*COLUMN, "codes")({"a": [0]}), "do not count from 0"),
    "a code that is another's": (lambda: at(*COLUMN, "unknown")(0), "do not count from 0"),
    "a mean that is text": (lambda: at("inputs", 0, "columns", 0, "mean")("7"), "`mean`"),
    "a mean without end": (lambda: at("inputs", 0, "columns", 0, "mean")(10**400), "too large"),
    "an output of another shape": (lambda: at("outputs", 0, "shape")(["batch", 3]), "has the shape"),
    "classes of one name": (lambda: at("outputs", 0, "classes")(["no", "no"]), "its classes are no names"),
    "two outputs": (lambda: changed(lambda s: s["outputs"].append(s["outputs"][0])), "2 outputs"),
    "a batch of none": (lambda: at("max_batch")(0), "`max_batch` is 0"),
    "a switch for a number": (lambda: at("max_batch")(True), "`max_batch`"),
    "an unknown field": (lambda: at("run")("me"), "it has 'run'"),
    "no checksum of the model": (lambda: without("sha256"), "lacks `sha256`"),
}


@pytest.mark.parametrize("name", MUTILATED)
def test_a_schema_that_is_foreign_or_mutilated_is_refused_with_what_is_wrong(name):
    make, why = MUTILATED[name]
    with pytest.raises(RunError, match=rf"bad\.pt2\.json is no schema .*{why}"):
        read_as(make())


def test_a_schema_of_before_there_were_checksums_is_read():
    assert read_as(json.dumps(known()))["target"] == "survived"


def test_a_bit_that_is_flipped_in_a_schema_is_noticed():
    text = Path("good.pt2.json").read_text()
    assert '"female": 0' in text
    with pytest.raises(RunError, match="it is damaged, as its checksum says"):
        read_as(text.replace('"female": 0', '"femala": 0'))
    assert read_as(json.dumps(json.loads(text)))["target"] == "survived"  # laid out otherwise


@pytest.mark.parametrize(
    ("file_format", "what"),
    [("torchscript", "may write files"), ("aoti", "compiled code"), ("executorch", "a program")],
)
def test_a_schema_cannot_choose_a_format_that_is_code(file_format, what):
    schema = {**known(), "format": file_format}
    Path("code.pt2").write_bytes(Path("good.pt2").read_bytes())
    Path("code.pt2.json").write_text(json.dumps(schema))
    Path("trust.yaml").write_text("trust: true\n")
    for more in ([], ["--trust=false"], ["--config=trust.yaml"]):
        said = refused("--exported=code.pt2", *ROWS, *more, verb="predict")
        assert "code.pt2 is " in said
        assert what in said
        assert "--trust=true runs it" in said
    assert "--trust needs true or false" in refused("--exported=code.pt2", *ROWS, "--trust=2", verb="predict")


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # this is about its files
def test_a_torchscript_file_writes_nothing_until_it_is_trusted():
    torch.jit.script(Writes()).save("writes.pt")
    digest = hashlib.sha256(Path("writes.pt").read_bytes()).hexdigest()
    Path("writes.pt.json").write_text(json.dumps({**known(), "format": "torchscript", "sha256": digest}))
    refused("--exported=writes.pt", *ROWS, verb="predict")
    assert not Path("written").exists()
    succeed("predict", "--exported=writes.pt", *ROWS, "--trust=true")
    assert Path("written").exists()
