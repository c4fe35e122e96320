"""An ONNX file that one is given is looked through before onnxruntime opens it."""

import io
import random
from pathlib import Path

import numpy as np
import pytest

from lightning_mods.export.onnx_model import checked_model
from lightning_mods.export.runtime import open_exported
from lightning_mods.runs import RunError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper = onnx.helper
FLOAT = onnx.TensorProto.FLOAT


def value(name, *shape):
    return helper.make_tensor_value_info(name, FLOAT, shape)


def tensor(name="w", numbers=(1.0, 2.0)):
    return onnx.numpy_helper.from_array(np.array(numbers, dtype=np.float32), name)


def model(*nodes, weights=(), **more):
    graph = helper.make_graph(nodes, "g", [value("x", None, 2)], [value("y", None, 2)], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, **more)


def add(name="w"):
    return helper.make_node("Add", ["x", name], ["y"])


def elsewhere():
    outside = tensor()
    outside.ClearField("raw_data")
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="secret.bin")
    return outside


def branch():
    inside = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "then", [], [value("z", None, 2)])
    return helper.make_node("If", ["c"], ["y"], then_branch=inside, else_branch=inside)


def constant():
    return model(helper.make_node("Constant", [], ["w"], value=elsewhere()), add())


def functions():
    own = helper.make_function("own", "F", ["x"], ["y"], [add()], [helper.make_opsetid("", 20)])
    return model(helper.make_node("F", ["x"], ["y"], domain="own"), functions=[own])


def second_graph():
    """Protobuf puts the two graphs of a message together: what is in the second counts."""
    whole = model(add(), weights=[tensor()]).SerializeToString()
    return whole + model(weights=[elsewhere()]).SerializeToString()


REFUSED = {
    "weights from another file": (lambda: model(add(), weights=[elsewhere()]), "data from another file|the field 13"),
    "a constant from another file": (constant, "data from another file|the field 13"),
    "a second graph": (second_graph, "data from another file|the field 13"),
    "a branch": (lambda: model(branch()), "the operation 'If'|the field 6"),
    "a loop": (lambda: model(helper.make_node("Loop", ["", "c", "x"], ["y"])), "the operation 'Loop'"),
    "a size that is said": (lambda: model(helper.make_node("Expand", ["x", "w"], ["y"])), "the operation 'Expand'"),
    "another library": (lambda: model(helper.make_node("Add", ["x", "x"], ["y"], domain="own")), "operation of 'own'"),
    "functions": (functions, "the operation 'F'|the field 25"),
    "weights that are no numbers": (lambda: model(add(), weights=[tensor("w", (1, np.nan))]), "NaN or infinite"),
    "no model": (lambda: b"hello, this is none", "is no ONNX model"),
    "nothing": (lambda: b"", "cannot be opened"),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.array([7.0, 7.0], dtype=np.float32).tofile("secret.bin")


def written(content):
    Path("model.onnx").write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return Path("model.onnx")


def test_known_operations_over_numbers_are_run():
    run = open_exported("onnx", written(model(add(), weights=[tensor()])))
    assert run([np.ones((3, 2), dtype=np.float32)])[0].tolist() == [[2, 3]] * 3


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_more_than_numbers_and_known_operations_is_refused(name, capfd):
    make, why = REFUSED[name]
    with pytest.raises(RunError, match=rf"model\.onnx .*({why})"):
        open_exported("onnx", written(make()))
    assert capfd.readouterr() == ("", "")  # onnxruntime writes to the terminal by itself


def test_a_tag_that_is_longer_than_it_need_be_hides_nothing():
    """A reader that keeps 32 bits of a number takes this one for a field 14 of a tensor: data from another file."""
    whole = tensor().SerializeToString()
    tag, parts = (14 << 3) | 2**32, []
    while tag:
        parts.append(tag & 127 | (128 if tag > 127 else 0))
        tag >>= 7
    inner = whole + bytes(parts) + b"\x01"
    graph = bytes([(5 << 3) | 2, len(inner)]) + inner
    with pytest.raises(RunError, match="the field"):
        checked_model(written(bytes([(7 << 3) | 2, len(graph)]) + graph))


def test_mutated_files_end_in_one_error_or_in_numbers():
    whole, draw = model(add(), weights=[tensor()]).SerializeToString(), random.Random(0)
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 2, 4])):
            content[draw.randrange(len(content))] = draw.randrange(256)
        buffer = io.BytesIO(content)
        try:
            open_exported("onnx", written(buffer.getvalue()))([np.ones((3, 2), dtype=np.float32)])
        except RunError as error:
            assert "model.onnx" in str(error)  # noqa: PT017  # numbers are as good
