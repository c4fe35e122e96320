"""Programs of `torch.export`, run as data: tensors and a list of known operations, without torch's own loader.

`torch.export.load` does what a file says: it unpickles, looks names up in torch, and evaluates sizes and guards as
Python. Here a file names operations of the list below, tensors and plain numbers, and nothing else of it is looked at.
The layout is that of schema 8; tried on files of torch 2.13.
"""

import json
import math
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_mods.runs import RunError

_SCHEMA = 8
_MODEL = "models/model.json"
_CONFIGS = {"data/weights/": "model_weights_config.json", "data/constants/": "model_constants_config.json"}
# All files that torch.export.save writes for plain tensors; those of the second line are not read.
_PARTS = re.compile(
    r"models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")
_DTYPES = {
    **{1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16},
    **{7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16},
}
_STRIDED = 7
# Each makes new tensors, or views, of the tensors it is given, and does nothing else; none takes a size but `zeros`.
_NAMES = """
    abs neg sign reciprocal square sqrt rsqrt exp expm1 log log1p log2 erf floor ceil round trunc isnan isinf
    isfinite sin cos tanh atan sigmoid relu relu6 elu gelu leaky_relu silu selu celu mish softplus hardtanh
    hardsigmoid hardswish dropout log_sigmoid logical_not logical_and logical_or bitwise_not minimum maximum clamp
    clamp_min clamp_max zeros clone alias detach cat stack index_select unsqueeze t linear addmm mm matmul amax
    amin argmax cumsum layer_norm rms_norm
    softmax.int log_softmax.int select.int transpose.int __or__.Tensor __and__.Tensor add.Tensor sub.Tensor
    mul.Tensor div.Tensor clamp.Tensor eq.Tensor ne.Tensor lt.Tensor le.Tensor gt.Tensor ge.Tensor rsub.Scalar
    eq.Scalar ne.Scalar lt.Scalar le.Scalar gt.Scalar ge.Scalar pow.Tensor_Scalar pow.Tensor_Tensor where.self
    where.ScalarSelf where.ScalarOther to.dtype squeeze.dim mean.dim sum.dim_IntList
"""
_OPERATIONS = frozenset(
    f"torch.ops.aten.{name}" if "." in name else f"torch.ops.aten.{name}.default" for name in _NAMES.split()
)
_CHECK = "torch.ops.aten._assert_tensor_metadata.default"  # of what the weights and the inputs say already
_ZEROS = "torch.ops.aten.zeros.default"
_MOST_ZEROS = 1_000_000  # elements of a tensor that stands for no input and no weight


@dataclass(frozen=True)
class _Name:
    """Stands for a tensor in the arguments of an operation."""

    text: str


@dataclass(frozen=True)
class _Step:
    operation: Callable[..., Any]
    arguments: Mapping[str, Any]
    output: str
    spent: tuple[str, ...]  # tensors that nothing needs afterwards


@dataclass(frozen=True)
class TorchProgram:
    """Runs the operations of a file over its weights and the inputs that it is called with."""

    weights: Mapping[str, Tensor]  # by their name in the graph; of parameters and buffers alike
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[_Step, ...]

    @property
    def weight_elements(self) -> int:
        """Return the number of all weights."""
        return sum(value.numel() for value in self.weights.values())

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Return the outputs for inputs of the shapes and dtypes that the program was exported for."""
        return self._run({**self.weights, **dict(zip(self.inputs, inputs, strict=True))})

    def elements(self, *inputs: Tensor) -> int:
        """Return the elements of the largest tensor that a call with such inputs makes, without making it."""
        nothing = {name: value.to("meta") for name, value in self.weights.items()}
        sizes = [0]
        nothing.update(zip(self.inputs, (value.to("meta") for value in inputs), strict=True))
        self._run(nothing, sizes)
        return max(sizes)

    def _run(self, values: dict[str, Tensor], sizes: list[int] | None = None) -> list[Tensor]:
        device = next(iter(values.values())).device
        for step in self.steps:
            filled = {name: _filled(argument, values) for name, argument in step.arguments.items()}
            if "device" in filled:
                filled["device"] = device
            made = step.operation(**filled)
            if sizes is not None:
                sizes.append(made.numel())
            values[step.output] = made
            for name in step.spent:
                del values[name]
        return [values[name] for name in self.outputs]


def _filled(argument: Any, values: Mapping[str, Tensor]) -> Any:
    if isinstance(argument, _Name):
        return values[argument.text]
    return [_filled(each, values) for each in argument] if isinstance(argument, list) else argument


def read_program(file: Path) -> TorchProgram:
    """Read the program of a `.pt2` file; a RunError says what it holds that a model of a table has not."""
    try:
        return _read(file, _parts(file))
    except RunError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise RunError(f"{file} is damaged, or no program as torch.export writes it; export it anew.") from error


def _read(file: Path, parts: Mapping[str, bytes]) -> TorchProgram:
    weights = {name: tensor for folder in _CONFIGS for name, tensor in _payloads(file, parts, folder).items()}
    plain = json.loads(parts[_MODEL])
    if plain["schema_version"]["major"] != _SCHEMA:
        raise RunError(f"{file} is written in a schema of torch.export that is not known here; export it anew.")
    graph, signature = plain["graph_module"]["graph"], plain["graph_module"]["signature"]
    bound, inputs = _inputs(file, signature["input_specs"], weights)
    outputs = tuple(_output(file, spec) for spec in signature["output_specs"])
    steps = _steps(file, graph["nodes"], {*bound, *inputs}, outputs)
    made = {*bound, *inputs, *(step.output for step in steps)}
    if not made.issuperset(outputs) or not inputs:
        raise RunError(f"{file} is damaged: its graph lacks an input or an output.")
    return TorchProgram(bound, inputs, outputs, steps)


def _parts(file: Path) -> dict[str, bytes]:
    """Return the files of an archive, by their name without the folder that they share."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            roots = {entry.filename.partition("/")[0] for entry in entries}
            names = [entry.filename.partition("/")[2] for entry in entries]
            odd = [name for name in names if not _PARTS.fullmatch(name)]
            if odd:
                raise RunError(f"{file} holds {odd[0][:80]!r}, which a model of plain tensors has not; export it anew.")
            stored = all(e.compress_type == zipfile.ZIP_STORED and e.file_size == e.compress_size for e in entries)
            fits = sum(entry.file_size for entry in entries) <= file.stat().st_size
            if len(roots) != 1 or len({*names}) < len(names) or not stored or not fits:
                raise RunError(f"{file} is no archive as torch.export writes it: {_oddity(roots, stored, fits)}.")
            return {name: archive.read(entry) for name, entry in zip(names, entries, strict=True)}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{file} is no whole .pt2 archive of torch.export ({error}); export it anew.") from error


def _oddity(roots: set[str], stored: bool, fits: bool) -> str:
    if not stored:
        return "a file in it is compressed"
    if not fits:
        return "its files are larger than it is"
    return "its files are in several folders" if len(roots) != 1 else "two files in it have one name"


def _payloads(file: Path, parts: Mapping[str, bytes], folder: str) -> dict[str, Tensor]:
    """Return the tensors of the weights or of the constants, by their names in the module."""
    if parts.get("byteorder", b"little").decode() != sys.byteorder:
        raise RunError(f"{file} was written on a machine with another order of bytes; export it here.")
    config = json.loads(parts[folder + _CONFIGS[folder]])["config"]
    return {name: _payload(file, parts, folder, each) for name, each in config.items()}


def _payload(file: Path, parts: Mapping[str, bytes], folder: str, each: Mapping[str, Any]) -> Tensor:
    path, meta = each["path_name"], each["tensor_meta"]
    if each["use_pickle"] is not False or not _PAYLOAD.fullmatch(path) or meta is None:
        raise RunError(f"{file} holds pickles ({str(path)[:80]!r}), which a model of plain tensors has not.")
    dtype = _DTYPES[meta["dtype"]]
    size, stride = ([_whole(each["as_int"]) for each in meta[key]] for key in ("sizes", "strides"))
    content = parts[folder + path]
    count = math.prod(size)
    if min(size, default=0) < 0 or count * dtype.itemsize > len(content) or meta["layout"] != _STRIDED:
        raise RunError(f"{file} is damaged: {path} holds {len(content)} bytes, too few for the shape {size}.")
    if not count:
        return torch.zeros(size, dtype=dtype)
    flat = torch.frombuffer(bytearray(content), dtype=dtype)
    return torch.as_strided(flat, size, stride, _whole(meta["storage_offset"]["as_int"])).contiguous()


def _inputs(
    file: Path, specs: Sequence[Mapping[str, Any]], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the weights by their names in the graph, and the names of the inputs that a call brings."""
    bound: dict[str, Tensor] = {}
    inputs: list[str] = []
    for spec in specs:
        [(kind, said)] = spec.items()
        if kind == "user_input":
            inputs.append(str(said["arg"]["as_tensor"]["name"]))
        elif kind in ("parameter", "buffer", "tensor_constant"):
            bound[str(said["arg"]["name"])] = weights[said[f"{kind}_name"]]
        else:
            raise RunError(f"{file} takes an input of the kind {kind[:40]!r}, which a model of a table has not.")
    lost = [name for name, value in bound.items() if value.is_floating_point() and not value.isfinite().all()]
    if lost:
        raise RunError(f"{file} holds weights that are no numbers (NaN or infinite): {lost[0][:80]!r}; export it anew.")
    return bound, tuple(inputs)


def _output(file: Path, spec: Mapping[str, Any]) -> str:
    [(kind, said)] = spec.items()
    if kind != "user_output":
        raise RunError(f"{file} has an output of the kind {kind[:40]!r}, which a model of a table has not.")
    return str(said["arg"]["as_tensor"]["name"])


def _steps(
    file: Path, nodes: Sequence[Mapping[str, Any]], known: set[str], outputs: Sequence[str]
) -> tuple[_Step, ...]:
    """Return the operations in order, each with the tensors that none after it needs."""
    found: list[_Step] = []
    for node in nodes:
        if node["target"] == _CHECK:
            continue
        operation = _operation(file, node["target"])
        arguments = {str(each["name"]): _argument(file, each["arg"]) for each in node["inputs"]}
        [made] = node["outputs"]
        step = _Step(operation, arguments, str(made["as_tensor"]["name"]), ())
        unknown = [name for name in _names(arguments) if name not in known]
        if unknown or step.output in known:
            raise RunError(f"{file} is damaged: its graph has no tensor {(unknown or [step.output])[0][:80]!r}.")
        if node["target"] == _ZEROS:
            arguments.setdefault("device", torch.device("cpu"))
            if math.prod(arguments["size"]) > _MOST_ZEROS:
                raise RunError(f"{file} asks for a tensor of {arguments['size']}, which a model of a table does not.")
        known.add(step.output)
        found.append(step)
    return _freed(found, {*outputs})


def _freed(steps: Sequence[_Step], needed: set[str]) -> tuple[_Step, ...]:
    made = {step.output for step in steps}
    last = []
    for step in reversed(steps):
        spent = {name for name in (*_names(step.arguments), step.output) if name in made and name not in needed}
        needed |= spent
        last.append(_Step(step.operation, step.arguments, step.output, tuple(sorted(spent))))
    return tuple(reversed(last))


def _operation(file: Path, target: Any) -> Callable[..., Any]:
    if target not in _OPERATIONS:
        raise RunError(
            f"{file} uses the operation {str(target)[:80]!r}, which is none of those that are run of a file; "
            "--trust=true opens a file of yours with torch's own loader."
        )
    name, overload = target.split(".")[-2:]
    operation: Callable[..., Any] = getattr(getattr(torch.ops.aten, name), overload)
    return operation


def _argument(file: Path, union: Mapping[str, Any]) -> Any:
    [(kind, value)] = union.items()
    if kind not in _ARGUMENTS:
        raise RunError(f"{file} uses an argument of the kind {kind[:40]!r}, which a model of a table has not.")
    return _ARGUMENTS[kind](value)


def _names(arguments: Mapping[str, Any]) -> list[str]:
    return [
        each.text
        for value in arguments.values()
        for each in (value if isinstance(value, list) else [value])
        if isinstance(each, _Name)
    ]


def _whole(value: Any) -> int:
    if type(value) is not int or abs(value) >= 2**63:
        raise TypeError(f"a whole number is needed, not {str(value)[:40]!r}")
    return value


def _of(kind: type) -> Callable[[Any], Any]:
    def same(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"{kind.__name__} is needed, not {str(value)[:40]!r}")
        return value

    return same


def _text(value: Any) -> str:
    if value not in ("none", "tanh"):  # how gelu is approximated
        raise ValueError(f"{str(value)[:40]!r} is no option of an operation")
    return str(value)


def _cpu(value: Any) -> torch.device:
    if value["type"] != "cpu":
        raise ValueError(f"the processor is needed as device, not {str(value['type'])[:40]!r}")
    return torch.device("cpu")


_ARGUMENTS: Mapping[str, Callable[[Any], Any]] = {
    "as_none": lambda value: None,
    "as_tensor": lambda value: _Name(str(value["name"])),
    "as_tensors": lambda value: [_Name(str(each["name"])) for each in value],
    "as_int": _whole,
    "as_ints": lambda value: list(map(_whole, value)),
    "as_float": float,  # also the words Infinity and NaN
    "as_bool": _of(bool),
    "as_string": _text,
    "as_scalar_type": lambda value: _DTYPES[value],
    "as_device": _cpu,
}
