"""ONNX files looked through before a runtime opens them: known operations alone, and no data from other files.

Read as Protobuf's wire format, by the numbers of onnx.proto (IR version 13): neither `onnx` nor torch is needed.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lightning_mods.runs import RunError

# The fields that may be there, by message. Left out: functions, training, sparse tensors, graphs within attributes
# (loops and branches), and data from other files.
_MODEL, _GRAPH, _NODE = {1, 2, 3, 4, 5, 6, 7, 8, 14}, {1, 2, 5, 10, 11, 12, 13, 14, 16}, {1, 2, 3, 4, 5, 6, 7, 8, 9}
_ATTRIBUTE = {1, 2, 3, 4, 5, 7, 8, 9, 10, 13, 20, 21}
_TENSOR = {1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16}
_GRAPH_OF_MODEL, _NODE_OF_GRAPH, _INITIALIZER, _OP_TYPE, _ATTRIBUTES, _DOMAIN = 7, 1, 5, 4, 5, 7
_TENSORS_OF_ATTRIBUTE = (5, 10)
_KIND, _FLOATS, _NAME, _RAW, _DOUBLES, _LOCATION = 2, 4, 8, 9, 10, 14
_NUMBERS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
# Each computes from the tensors it is given, and none makes one of a size that a number in the file says.
_NAMES = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization Cast CastLike Ceil Celu Clip
    Concat Constant Cos Cosh CumSum Div Dropout Elu Equal Erf Exp Flatten Floor Gather GatherElements Gelu Gemm
    Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax MatMul Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow RMSNormalization Reciprocal
    ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Round Selu Shape Sigmoid Sign Sin Sinh Slice Softmax
    Softplus Softsign Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Transpose Unsqueeze Where Xor
"""
_OPERATIONS = frozenset(_NAMES.split())


def checked_model(file: Path) -> bytes:
    """Return the bytes of an ONNX file; a RunError says what it holds that a model of a table has not."""
    content = file.read_bytes()
    try:
        _check(memoryview(content))
    except ValueError as error:
        raise RunError(f"{file} is no ONNX model that is opened here: {error}.") from error
    return content


def _check(model: memoryview) -> None:
    for number, graph in _fields(model, _MODEL, "model"):
        if number == _GRAPH_OF_MODEL:
            for inner, part in _fields(_message(graph), _GRAPH, "graph"):
                if inner == _NODE_OF_GRAPH:
                    _check_node(_message(part))
                elif inner == _INITIALIZER:
                    _check_tensor(_message(part), weights=True)


def _check_node(node: memoryview) -> None:
    for number, value in _fields(node, _NODE, "node"):
        if number == _OP_TYPE and (name := bytes(_message(value)).decode()) not in _OPERATIONS:
            raise ValueError(f"it uses the operation {name[:40]!r}; --trust=true opens a file of yours all the same")
        if number == _DOMAIN and bytes(_message(value)) not in (b"", b"ai.onnx"):
            raise ValueError(f"it uses an operation of {bytes(_message(value))[:40].decode(errors='replace')!r}")
        if number == _ATTRIBUTES:
            for inner, part in _fields(_message(value), _ATTRIBUTE, "attribute"):
                if inner in _TENSORS_OF_ATTRIBUTE:
                    _check_tensor(_message(part), weights=False)


def _check_tensor(tensor: memoryview, *, weights: bool) -> None:
    kind, name = 0, ""
    found: list[tuple[int, int | memoryview]] = []
    for number, value in _fields(tensor, _TENSOR, "tensor"):
        if number == _LOCATION and value != 0:
            raise ValueError("it takes data from another file")
        if number == _KIND and isinstance(value, int):
            kind = value
        elif number == _NAME:
            name = bytes(_message(value)).decode(errors="replace")
        elif number in (_RAW, _FLOATS, _DOUBLES):
            found.append((number, value))
    if weights:
        for number, value in found:
            if not _is_finite(number, kind, value):
                raise ValueError(f"its weights are no numbers (NaN or infinite) in {name[:80]!r}")


def _is_finite(number: int, kind: int, value: int | memoryview) -> bool:
    dtype = _NUMBERS.get({_FLOATS: 1, _DOUBLES: 11}.get(number, kind))
    if dtype is None or not isinstance(value, memoryview) or len(value) % dtype.itemsize:
        return True  # no numbers with a point, or for the runtime to refuse
    return bool(np.isfinite(np.frombuffer(value, dtype)).all())


def _message(value: int | memoryview) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError("it is damaged")  # what a file says, not what a caller passed
    return value


def _fields(message: memoryview, known: set[int], what: str) -> Iterator[tuple[int, int | memoryview]]:
    """Give the fields of a Protobuf message: a number each, and an integer or bytes."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if tag >= 2**32 or number not in known:
            raise ValueError(f"its {what} has the field {number}, which a model of a table has not")
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        size = {_EIGHT: 8, _FOUR: 4}.get(wire, math.inf)
        if wire == _BYTES:
            size, at = _varint(message, at)
        if size > end - at:
            raise ValueError("it is damaged")
        yield number, message[at : at + int(size)]
        at += int(size)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    for at in range(at, min(at + 10, len(message))):  # noqa: B020  # from where it stands
        value |= (message[at] & 0x7F) << shift
        if message[at] < 0x80:
            return value, at + 1
        shift += 7
    raise ValueError("it is damaged")
