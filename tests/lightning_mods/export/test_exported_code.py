"""A .pt2 file that one is given runs no code when it is opened or run, whatever is in it."""

import io
import json
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from lightning_mods.export.runtime import open_exported
from lightning_mods.runs import RunError

TOUCH = "__import__('pathlib').Path('ran').touch()"
CONFIG, MODEL = "data/weights/model_weights_config.json", "models/model.json"


META = {"dtype": 7, "sizes": [{"as_int": 1}], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}, "layout": 7}


class _Bomb:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.fixture(scope="module")
def archive():
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(torch.nn.Linear(2, 1), (torch.zeros(3, 2),), dynamic_shapes=(batch,))
    torch.export.save(program, buffer := io.BytesIO())
    return buffer.getvalue()


@pytest.fixture
def saved(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("good.pt2").write_bytes(archive)
    return Path("good.pt2")


def pickled():
    return pickle.dumps(_Bomb())


def saved_bomb():
    torch.save(_Bomb(), buffer := io.BytesIO())
    return buffer.getvalue()


def parts(source):
    with zipfile.ZipFile(source) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def packed(entries, target="bad.pt2", root="good"):
    """An archive of (name, content); names may come twice, and some readers see another than others."""
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w") as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, content in entries:
            archive.writestr(f"{root}/{name}", content)
    return Path(target)


def with_part(name, content):
    """The archive with one more file, or one in the place of another."""
    return lambda good: packed(list({**good, name: content}.items()))


def with_first(name, content):
    """The archive with a file in front, whose name may be there again."""
    return lambda good: packed([(name, content), *good.items()])


def with_last(name, content):
    return lambda good: packed([*good.items(), (name, content)])


def with_json(name, change):
    def make(good):
        plain = json.loads(good[name])
        change(plain)
        return packed(list({**good, name: json.dumps(plain).encode()}.items()))

    return make


def with_weight(**changed):
    """One weight that is described otherwise, beside files for a reader that follows that."""

    def make(good):
        plain = json.loads(good[CONFIG])
        next(iter(plain["config"].values())).update(changed)
        more = {CONFIG: json.dumps(plain).encode()}
        if "path_name" in changed:
            more[f"data/weights/{changed['path_name']}"] = saved_bomb()
        return packed(list({**good, **more}.items()))

    return make


def with_constant(path_name, content, **changed):
    def make(good):
        meta = {"path_name": path_name, "is_param": False, "use_pickle": False, "tensor_meta": None, **changed}
        config = json.dumps({"config": {"x": meta}}).encode()
        more = {"data/constants/model_constants_config.json": config, f"data/constants/{path_name}": content}
        return packed(list({**good, **more}.items()))

    return make


def graph(plain):
    return plain["graph_module"]["graph"]


def node(target, *inputs, output="linear"):
    named = [{"name": name, "arg": arg, "kind": 1} for name, arg in inputs]
    outputs = [{"as_tensor": {"name": output}}]
    return {"target": target, "inputs": named, "outputs": outputs, "metadata": {}, "name": output}


def named(name):
    return {"as_tensor": {"name": name}}


def with_node(*args):
    return with_json(MODEL, lambda plain: graph(plain)["nodes"].insert(0, node(*args, output="more")))


def with_guard(plain):
    plain["guards_code"] = [f"{TOUCH} is None"]


def with_size(plain):
    for meta in graph(plain)["tensor_values"].values():
        for size in meta["sizes"]:
            if "as_expr" in size:
                size["as_expr"]["expr_str"] = f"Integer({TOUCH} or 3)"


def with_range(plain):
    text = f"Integer({TOUCH} or 3)"
    graph(plain)["sym_int_values"] = {"s": {"as_expr": {"expr_str": text, "hint": {"as_int": 3}}}}


def with_function_metadata(plain):
    graph(plain)["nodes"][0]["metadata"]["source_fn_stack"] = "a,torch.serialization.os.system"


def with_local_names(good):
    """The names in front of the files differ from those in the directory at the end, which readers may ignore."""
    path = packed(list(good.items()))
    raw = path.read_bytes()
    name = b"good/data/weights/weight_0"
    path.write_bytes(raw.replace(name, b"good/data/weights/../../../x"[: len(name)], 1))
    return path


def with_two_ends(good):
    """Another whole archive in the comment: a reader that looks for the last end finds that one."""
    evil = packed([*good.items(), ("data/weights/model.pt", saved_bomb())], "evil.pt2").read_bytes()
    path = packed(list(good.items()))
    raw = path.read_bytes()
    path.write_bytes(raw[:-2] + struct.pack("<H", min(len(evil), 65_535)) + evil[:65_535])
    return path


def with_prefixes(good):
    """Two folders in one archive: a reader that takes the first for the root of all sees other files."""
    first = packed(list(good.items()))
    with zipfile.ZipFile(first, "a") as archive:
        archive.writestr("other/models/model.json", good[MODEL])
    return first


def compressed(good):
    path = Path("bad.pt2")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in good.items():
            archive.writestr(f"good/{name}", content if name != "data/weights/weight_0" else bytes(10_000_000))
    return path


def flipped(good):
    """A bit of a weight differs from what its CRC says."""
    path = packed(list(good.items()))
    raw = bytearray(path.read_bytes())
    raw[bytes(raw).index(good["data/weights/weight_0"])] ^= 1
    path.write_bytes(raw)
    return path


def deep(plain):
    graph(plain)["nodes"][0]["inputs"][0]["arg"] = {"as_tensors": [[[]]]}


def vast(elements):
    return with_node("torch.ops.aten.zeros.default", ("size", {"as_ints": [elements]}))


SYSTEM = ("command", {"as_string": "touch ran"})
ATTACKS = {
    "pickled weights": with_weight(use_pickle=True, path_name="weight_9"),
    "a custom object": with_constant("custom_obj_0", saved_bomb()),
    "an opaque object": with_constant("opaque_obj_0", pickled()),
    "a pickled constant": with_constant("tensor_0", saved_bomb(), use_pickle=True),
    "older weights": with_part("data/weights/model.pt", saved_bomb()),
    "older constants": with_part("data/constants/model.pt", saved_bomb()),
    "sample inputs twice, the bad first": with_first("data/sample_inputs/model.pt", saved_bomb()),
    "sample inputs twice, the bad last": with_last("data/sample_inputs/model.pt", saved_bomb()),
    "a model of another case": with_first("models/model.JSON", b"{}"),
    "a second model": with_part("models/other.json", b"{}"),
    "compiled code": with_part("data/aotinductor/model/code.so", pickled()),
    "the layout before 2.8": with_part("version", b"8.2"),
    "an operation of Python": with_node("torch.serialization.os.system", SYSTEM),
    "an operation of `operator`": with_node("_operator.attrgetter", SYSTEM),
    "an operation that writes a file": with_node(
        "torch.ops.aten.from_file.default",
        *[("filename", {"as_string": "ran"}), ("shared", {"as_bool": True}), ("size", {"as_int": 8})],
    ),
    "an operation of a library": with_node("torch.ops.higher_order.cond"),
    "names in two folders": with_prefixes,
    "compressed files": compressed,
    "a weight with a bit flipped": flipped,
    "arguments of another kind": with_json(MODEL, deep),
    "a model that is no JSON": with_part(MODEL, b"{"),
    "a model that is nested deeply": with_part(MODEL, b"[" * 100_000),
    "zeros without end": vast(10**12),
    "a weight of another shape": with_weight(tensor_meta={**META, "sizes": [{"as_int": 10**12}]}),
    "a weight elsewhere": with_weight(path_name="../x"),
    "local names": with_local_names,
    "two ends": with_two_ends,
}
# What torch's own loader would run, and is not looked at here.
PASSED_OVER = {
    "sample inputs that are pickles": with_part("data/sample_inputs/model.pt", saved_bomb()),
    "a guard": with_json(MODEL, with_guard),
    "a size": with_json(MODEL, with_size),
    "a size of a number": with_json(MODEL, with_range),
    "a function in the metadata": with_json(MODEL, with_function_metadata),
}


def test_what_torch_saves_of_plain_tensors_is_opened(saved):
    rows = torch.rand(5, 2)
    wanted = torch.export.load(saved).module()(rows)
    assert (open_exported("pt2", saved)([rows.numpy()])[0] == wanted.detach().numpy()).all()


def test_a_call_that_would_take_much_memory_is_made_in_parts(saved, monkeypatch):
    rows = torch.rand(64, 2).numpy()
    whole = open_exported("pt2", saved)([rows])[0]
    monkeypatch.setattr("lightning_mods.export.runtime._MOST_ELEMENTS", 8)
    assert (open_exported("pt2", saved)([rows])[0] == whole).all()


def test_a_row_that_would_take_all_memory_is_refused(saved):
    """Two vectors of a million numbers that make a square."""
    vector = {"size": {"as_ints": [1_000_000, 1]}}
    across = {"size": {"as_ints": [1, 1_000_000]}}
    nodes = [
        node("torch.ops.aten.zeros.default", *vector.items(), output="a"),
        node("torch.ops.aten.zeros.default", *across.items(), output="b"),
        node("torch.ops.aten.add.Tensor", ("self", named("a")), ("other", named("b")), output="c"),
    ]
    bad = with_json(MODEL, lambda plain: graph(plain)["nodes"].extend(nodes))(parts(saved))
    with pytest.raises(RunError, match=r"bad\.pt2 makes tensors of more than"):
        open_exported("pt2", bad)([torch.zeros(1, 2).numpy()])


@pytest.mark.parametrize("name", PASSED_OVER)
def test_what_only_torchs_own_loader_would_run_is_passed_over(name, saved):
    bad = PASSED_OVER[name](parts(saved))
    rows = torch.rand(5, 2).numpy()
    assert (open_exported("pt2", bad)([rows])[0] == open_exported("pt2", saved)([rows])[0]).all()
    assert not Path("ran").exists()


REASONS = {
    "older weights": "holds 'data/weights/model.pt'",
    "pickled weights": "holds pickles",
    "an operation that writes a file": r"uses the operation 'torch\.ops\.aten\.from_file\.default'",
    "an operation of Python": "uses the operation 'torch.serialization.os.system'",
    "zeros without end": "asks for a tensor of",
    "a weight of another shape": "too few for the shape",
}


@pytest.mark.parametrize("name", REASONS)
def test_what_is_refused_is_named(name, saved):
    with pytest.raises(RunError, match=REASONS[name]):
        open_exported("pt2", ATTACKS[name](parts(saved)))


@pytest.mark.parametrize("name", ATTACKS)
def test_what_would_run_is_refused(name, saved):
    bad = ATTACKS[name](parts(saved))
    with pytest.raises(RunError, match=r"bad\.pt2"):
        open_exported("pt2", bad)([torch.zeros(5, 2).numpy()])
    assert not Path("ran").exists()
