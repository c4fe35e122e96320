"""A .pt2 file that one is given runs no code when it is opened."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from lightning_mods.export.runtime import open_exported, refuse_code
from lightning_mods.runs import RunError


class _Bomb:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(torch.nn.Linear(2, 1), (torch.zeros(3, 2),), dynamic_shapes=(batch,))
    torch.export.save(program, "good.pt2")
    return Path("good.pt2")


def changed(source, part, change):
    """The archive with one of its files changed, or a new one."""
    target = Path("bad.pt2")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        names = old.namelist()
        root = names[0].partition("/")[0]
        for name in dict.fromkeys([*names, f"{root}/{part}"]):
            content = old.read(name) if name in names else b""
            new.writestr(name, change(content) if name.endswith(part) else content)
    return target


def with_pickle(content):
    config = json.loads(content)
    for each in config["config"].values():
        each["use_pickle"] = True
    return json.dumps(config).encode()


def with_program(content):
    return content.replace(b'"expr_str": "', b'"expr_str": "__import__(\'os\') + ', 1)


def bomb(content):
    return pickle.dumps(_Bomb())


def saved_bomb(content):
    torch.save(_Bomb(), buffer := io.BytesIO())
    return buffer.getvalue()


def test_what_torch_saves_of_plain_tensors_is_opened(saved):
    refuse_code(saved)
    assert open_exported("pt2", saved)([torch.zeros(5, 2).numpy()])[0].shape == (5, 1)


@pytest.mark.parametrize(
    ("part", "change", "why"),
    [
        ("data/weights/model_weights_config.json", with_pickle, "holds pickles"),
        ("models/model.json", with_program, "holds a size"),
        ("data/sample_inputs/model.pt", saved_bomb, "or holds pickles"),
        ("data/sample_inputs/model.pt", bomb, "or holds pickles"),
        ("data/aotinductor/model/code.so", bomb, "data/aotinductor/model/code.so"),
        ("version", bomb, "version"),
    ],
)
def test_what_would_run_is_refused(saved, part, change, why):
    bad = changed(saved, part, change)
    assert bad.read_bytes() != saved.read_bytes()
    with pytest.raises(RunError, match=why):
        open_exported("pt2", bad)
    assert not Path("ran").exists()


def test_what_is_no_archive_is_refused(saved):
    Path("text.pt2").write_text("hello")
    with pytest.raises(RunError, match="is no whole"):
        refuse_code(Path("text.pt2"))
