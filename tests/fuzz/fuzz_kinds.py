"""What is fuzzed: for each kind of input a strategy of cases. Every case ends by itself within seconds."""

import gzip
import io
import json
import warnings
from functools import cache
from hashlib import sha256

import numpy as np
import pyarrow as pa
import torch
import yaml
from fuzz_case import Case
from fuzz_mutations import mutated, places, reworded, with_value, without
from fuzz_seeds import CHECKPOINT, EXPORTS, QUIET, SMALL, TABLES, columns, logs, table
from hypothesis import strategies as st

from lightning_mods.cli.command_line import CommandLine
from lightning_mods.cli.lightning_cli import reference

RUN = (CHECKPOINT, "run/checkpoints/last.ckpt", "run/config.yaml", "t.csv", "new.csv")
SIDECARS = {kind: f"{name}.json" for kind, name in EXPORTS.items()}
# Whatever else a case says, its fit is short.
SHORT = (*QUIET, "--trainer.max_epochs=1", "--trainer.max_time=00:00:00:10")
RANDOM = st.randoms(use_true_random=True)  # its seed alone is drawn: quick, and what it led to is kept as bytes


def _of(*names):
    return st.sampled_from(names)


@st.composite
def _changed_text(draw, data):
    """Draw a text with words, lines or, now and then, bytes changed."""
    return draw(_of(reworded, reworded, mutated))(data, draw(RANDOM))


# ------------------------------------------------------------------ tables


def _with_table(file):
    """Return the ways in which a table is read: to train on, to predict, to evaluate."""
    into = f"--data.predict_path={file}"
    return _of(
        ("fit", (f"--data.path={file}", "--data.target=kind", *SHORT), ()),
        ("fit", (f"--data.path={file}", "--data.target=size", "--data.memory_map=true", *SHORT), ()),
        ("fit", ("--data.path=t.csv", "--data.target=kind", f"--data.val_path={file}", *SHORT), ("t.csv",)),
        ("predict", (f"--ckpt_path={CHECKPOINT}", into, "--output=out.csv", *QUIET), RUN),
        ("test", (f"--ckpt_path={CHECKPOINT}", f"--data.path={file}", *QUIET), RUN),
        ("predict", ("--exported=model.onnx", into, "--output=out.csv"), ("model.onnx", SIDECARS["onnx"])),
    )


@st.composite
def damaged_tables(draw):
    """Draw a good table of some format with some bytes changed."""
    kind = draw(_of(*TABLES))
    data = draw(_changed_text(table(kind))) if kind in ("csv", "tsv") else mutated(table(kind), draw(RANDOM))
    verb, args, beside = draw(_with_table(f"f.{kind}"))
    return Case(verb, args, {f"f.{kind}": data}, beside)


CELLS = _of(
    *("", " ", "a", "big", "small", "0", "1", "-1", "1.5", "nan", "NaN", "NA", "inf", "-inf", "1e400", "1e308", "-0.0"),
    *(
        "1,5",
        "1_0",
        "0x10",
        "9" * 40,
        "true",
        "False",
        "2024-01-01",
        "12:00",
        "é",
        "\u202e",
        "\x1b[31m",
        "\x07",
        "\x00",
    ),
    *("'", '"', "=1+1", "a" * 5000, "\ud800", "١", "1%", "€1", "a\nb", "a\rb", "None"),
)
NAMES = _of(
    "size", "weight", "colour", "kind", "", " ", "1", "true", "a.b", "é", "\x1b[2J", "x" * 300, "data.path", "="
)


@st.composite
def strange_texts(draw):
    """Draw a delimited text of cells that nobody expects."""
    kind = draw(_of("csv", "tsv", "csv.gz"))
    names = list(columns())
    rows = [list(map(str, row)) for row in zip(*columns().values(), strict=True)][: draw(_of(60, 60, 60, 60, 3, 1, 0))]
    for _ in range(draw(_of(0, 1, 3))):
        names[draw(st.integers(0, 3))] = draw(NAMES)
    for _ in range(draw(_of(0, 1, 3, 30)) if rows else 0):
        rows[draw(st.integers(0, len(rows) - 1))][draw(st.integers(0, 3))] = draw(CELLS)
    if draw(_of(False, False, True)):  # a column of nothing else
        at, cells = draw(st.integers(0, 3)), draw(st.lists(CELLS, min_size=1, max_size=3))
        for i, row in enumerate(rows):
            row[at] = cells[i % len(cells)]
    separator, end = "\t" if kind == "tsv" else draw(_of(",", ",", ";", "|", "\t")), draw(_of("\n", "\n", "\r\n", "\r"))
    text = end.join(separator.join(cells) for cells in [names, *rows]) + draw(_of("", end, end * 3))
    data = text.encode("utf-8", "surrogatepass")
    if kind.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    verb, args, beside = draw(_with_table(f"f.{kind}"))
    return Case(verb, args, {f"f.{kind}": data}, beside)


_DTYPES = ("?", "i1", "u8", "f2", "f4", ">f8", ">i4", "c8", "g", "U3", "S2", "M8[s]", "M8", "m8[D]", "O", "V4", "i4,f8")


@st.composite
def strange_arrays(draw):
    """Draw an NPZ of a good table with one or two arrays of any type and shape."""
    arrays = dict(columns())
    for name in draw(_some_columns("a/b", "../x")):
        shape = draw(_of((60,), (60,), (60,), (60, 1), (60, 3), (), (0,), (2, 2, 2), (59,)))
        bits = np.random.default_rng(draw(st.integers(0, 99))).integers(0, draw(_of(2, 9, 99)), shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arrays[name] = bits.astype("i8").astype(draw(_of(*_DTYPES)))
    arrays = {name: arrays[name] for name in arrays if name == "kind" or draw(_of(True, True, True, False))}
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    verb, args, beside = draw(_with_table("f.npz"))
    return Case(verb, args, {"f.npz": stream.getvalue()}, beside)


def _some_columns(*more):
    return st.lists(_of("size", "weight", "colour", "kind", *more), min_size=1, max_size=2, unique=True)


_ARROW = (
    *(pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.string(), pa.large_string(), pa.binary()),
    *(pa.decimal128(9, 2), pa.date32(), pa.timestamp("ns", "UTC"), pa.time64("us"), pa.duration("s"), pa.null()),
    *(pa.list_(pa.int64()), pa.struct({"a": pa.int64()}), pa.map_(pa.string(), pa.int64()), pa.binary(3)),
    *(pa.dictionary(pa.int8(), pa.string()), pa.string_view(), pa.list_(pa.float32(), 2)),
)


@st.composite
def strange_columns(draw):
    """Draw a Parquet or Feather file of a good table with one or two columns of any type."""
    kind = draw(_of("parquet", "feather"))
    good, rows = pa.table(columns()), draw(_of(60, 60, 60, 2, 1, 0))
    fields = {name: good[name].slice(0, rows) for name in good.column_names}
    for name in draw(_some_columns("a\x1bb")):
        fields[name] = _arrow_column(draw(_of(*_ARROW)), rows, draw(st.integers(0, 99)))
    try:
        data = table(kind, pa.table(fields))
    except (pa.ArrowException, ValueError):  # what the format has no words for
        data = table(kind, good)
    verb, args, beside = draw(_with_table(f"f.{kind}"))
    return Case(verb, args, {f"f.{kind}": data}, beside)


_NESTED = ([1], [1, 1], {"a": 1}, [("a", 1)], b"abc")  # what a cell of a type that numbers do not become may hold


def _arrow_column(of, rows, seed):
    rng = np.random.default_rng(seed)
    numbers = pa.array(rng.integers(0, 5, rows), mask=rng.random(rows) < 0.1 * (seed % 2))
    for between in (pa.int64(), pa.int32(), pa.string()):
        try:
            return numbers.cast(between).cast(of)
        except (pa.ArrowException, ValueError):
            continue
    for value in _NESTED:
        try:
            return pa.array([None if cell is None else value for cell in numbers.to_pylist()], of)
        except (pa.ArrowException, ValueError, TypeError):
            continue
    return pa.nulls(rows, of)


# ------------------------------------------------------------------ flags and configurations

VALUES = _of(
    *("", " ", "0", "1", "-1", "2", "1.5", "1e400", "nan", "inf", "true", "null", "x", "iris", "digits", "wine", "[]"),
    *("[1]", "[x]", "{}", "{a: 1}", "{a: {b: [1]}}", "[[[[]]]]", "2024-01-01", "auto", "kind", "t.csv", "nothing.csv"),
    *(
        "run",
        "~",
        "~nobody/x",
        "a\x00b",
        "\x1b[31m",
        "\udcff",
        "9" * 30,
        "0x10",
        "1_000",
        "'",
        '"',
        "[",
        "{",
        "&a [*a]",
        "*a",
    ),
    *(
        "!!python/object:os.system x",
        "!x",
        "@",
        "-",
        "--",
        "1..2",
        "log 1..2",
        "log 0..1",
        "2..1",
        "pow2 1..9",
        "a..b",
        "SGD",
    ),
    *(
        "Adam",
        "StepLR",
        "torch.nn.Linear",
        ".x",
        "a..b",
        "lightning_mods.",
        "os",
        "EarlyStopping",
        "/dev/null",
        "/dev/full",
    ),
    *(
        "cpu",
        "gpu",
        "ddp",
        "sqlite:///s.db",
        "sqlite:///",
        "postgresql://u:p@127.0.0.1:1/x",
        "mysql://x/y",
        "s.journal",
    ),
    *(
        "-0",
        "1e-300",
        "1e300",
        "[0]",
        "[-1]",
        "[1000000000]",
        "[8, 8]",
        "full",
        "[kind]",
        "[kind, kind]",
        "best",
        "last",
    ),
)
VERBS = ("fit", "validate", "test", "predict", "export", "study")
_OWN = {
    "study": (
        "study.n_trials",
        "study.storage",
        "study.name",
        "study.timeout",
        "space.model.lr",
        "space.data.path",
        "space.x",
    ),
    "export": ("format", "output", "overwrite"),
    "predict": ("output", "exported"),
}
_BASE = {
    "fit": ("--data.path=t.csv", "--data.target=kind", *SHORT),
    "study": ("--data.path=t.csv", "--data.target=kind", "--study.n_trials=2", *SHORT),
    "predict": ("--data.predict_path=new.csv", "--output=out.csv", "--trainer.default_root_dir=run", *QUIET),
    **dict.fromkeys(("validate", "test"), ("--trainer.default_root_dir=run", *QUIET)),
    "export": ("--trainer.default_root_dir=run", "--format=pt2", *QUIET),
}


@cache
def known_flags(verb):
    """Return the names of all flags of a verb."""
    return tuple(sorted({*reference(CommandLine.parse(verb, [])).known, *_OWN.get(verb, ())}))


@st.composite
def flags(draw):
    """Draw a good command line with one to three flags, known or nearly so, of any value."""
    verb = draw(_of(*VERBS))
    args = list(_BASE[verb])
    for _ in range(draw(_of(1, 1, 2, 3))):
        name = draw(_of(*known_flags(verb)))
        name = draw(_of(name, name, name, name, name + "s", name.upper(), name + ".x", name + "+"))
        if name.startswith("trainer.num_nodes"):
            continue  # waits for the other machines, as it should
        value = draw(VALUES)
        at = draw(st.integers(0, len(args)))
        args[at:at] = draw(_of([f"--{name}={value}"], [f"--{name}={value}"], [f"--{name}", value], [f"--{name}"]))
    return Case(verb, tuple(args), {}, RUN)


@cache
def _configuration():
    return yaml.safe_load(_good_text("run/config.yaml"))


_LEAVES = _of(
    *(None, True, 0, 1, -1, 2, 1.5, float("nan"), float("inf"), 10**30, "", "x", "kind", "t.csv", "a\x00b", "\x1b[31m"),
    *(
        [],
        [1],
        ["x"],
        [None],
        {},
        {"a": 1},
        {"class_path": "x"},
        {"class_path": ".x"},
        {"class_path": "torch.nn.Linear"},
    ),
    *({"class_path": "EarlyStopping", "init_args": {"monitor": "x"}}, [{"class_path": "lightning_mods.MLPClassifier"}]),
    *({"init_args": {}}, [[[[[]]]]], b"bytes", {1: 2}, {None: 1}, "2024-01-01"),
)


@st.composite
def configurations(draw):
    """Draw the configuration of a good run with values or bytes changed."""
    verb = draw(_of(*VERBS))
    if draw(_of(True, True, False)):
        tree = draw(_changed_tree(_configuration(), _LEAVES))
        data = yaml.safe_dump(tree).encode("utf-8", "surrogatepass")
    else:
        data = draw(_changed_text(_good_text("run/config.yaml")))
    data = draw(_of(data, data, data, *_ODD_YAML))
    return Case(verb, ("--config=c.yaml", *_BASE[verb]), {"c.yaml": data}, RUN)


_LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (c + 1, c + 1, b",".join([b"*%c" % c] * 9)) for c in range(97, 110)
)
_ODD_YAML = (
    _LAUGHS,
    *(b"", b"1", b"[]", b"- a\n- b\n", b"a: &a [*a]\n", b"model: &a\n  b: *a\n", b"[" * 3000, b"{a: " * 3000),
    *(
        b"trainer: !!python/object/apply:os.abort []\n",
        b"\xff\xfe\x00",
        b"trainer:\n\tmax_epochs: 1\n",
        b"data: {path: t.csv, path: x}",
    ),
)


@st.composite
def _changed_tree(draw, tree, leaves):
    for _ in range(draw(_of(1, 1, 2))):
        path = draw(_of(*places(tree)))
        drop = path and draw(_of(False, False, True))
        tree = without(tree, path) if drop else with_value(tree, path, draw(leaves))
        if not isinstance(tree, dict | list):
            break
    return tree


# ------------------------------------------------------------------ checkpoints, exports, studies

_GOOD = {}


def use_good_run(folder):
    """Say where the good run is; its files are what is changed."""
    _GOOD["folder"] = folder


def _good_text(name):
    return (_GOOD["folder"] / name).read_bytes()


@cache
def _checkpoint(name):
    return torch.load(_GOOD["folder"] / name, weights_only=True)


_TENSORS = _of(
    *(
        torch.zeros(0),
        torch.zeros(()),
        torch.ones(3),
        torch.full((4, 4), float("nan")),
        torch.zeros(2, 2, dtype=torch.int8),
    ),
    *(
        torch.zeros(4, dtype=torch.complex64),
        torch.zeros(1, dtype=torch.bool),
        torch.ones(4, 4).to_sparse(),
        torch.ones(9).half(),
    ),
    *(torch.zeros(1, 1).expand(50_000, 50_000), torch.empty(4, 4, device="meta"), {1, 2}, 2j, (), ("a",)),
)


@st.composite
def checkpoints(draw):
    """Draw a checkpoint with values or bytes changed, for every verb that reads one."""
    name = draw(_of(CHECKPOINT, "run/checkpoints/last.ckpt"))
    if draw(_of(True, True, False)):
        tree = draw(_changed_tree(_checkpoint(name), st.one_of(_LEAVES, _TENSORS)))
        stream = io.BytesIO()
        torch.save(tree, stream)
        data = stream.getvalue()
    else:
        data = mutated(_good_text(name), draw(RANDOM))
    place = draw(_of("moved.ckpt", name))
    verb = draw(_of("fit", "validate", "test", "predict", "export"))
    more = {
        "fit": ("--data.path=t.csv", "--data.target=kind", *QUIET, "--trainer.max_epochs=3"),
        "predict": ("--data.predict_path=new.csv", "--output=out.csv", *QUIET),
        "export": ("--format=pt2", "--output=e.pt2"),
    }.get(verb, QUIET)
    beside = tuple(each for each in RUN if each != place)
    return Case(verb, (f"--ckpt_path={place}", *more), {place: data}, beside)


@st.composite
def exports(draw):
    """Draw an exported model or its sidecar with values or bytes changed."""
    kind = draw(_of(*EXPORTS))
    model, sidecar = EXPORTS[kind], SIDECARS[kind]
    which = draw(_of("sidecar", "sidecar", "model", "other"))
    if which == "sidecar" and draw(_of(True, True, False)):
        tree = draw(_changed_tree(json.loads(_good_text(sidecar)), _LEAVES))
        files = {sidecar: json.dumps(tree, default=str).encode()}
    elif which == "other":  # the sidecar of another format
        files = {sidecar: _good_text(SIDECARS[draw(_of(*EXPORTS))])}
    else:
        name = model if which == "model" else sidecar
        text = _good_text(name)
        files = {name: mutated(text, draw(RANDOM)) if which == "model" else draw(_changed_text(text))}
        if which == "model" and draw(_of(True, True, False)):  # a stranger's, with a schema that fits
            files[sidecar] = _with_digest_of(files[model], _good_text(sidecar))
    beside = tuple(name for name in (model, sidecar, "new.csv") if name not in files)
    trust = draw(_of((), ("--trust=true",))) if kind == "torchscript" and model not in files else ()
    args = (f"--exported={model}", "--data.predict_path=new.csv", "--output=out.csv", *trust)
    return Case("predict", args, files, beside)


def _with_digest_of(model, sidecar):
    return json.dumps({**json.loads(sidecar), "sha256": sha256(model).hexdigest()}).encode()


@st.composite
def studies(draw):
    """Draw the journal of a study with bytes changed, taken up again."""
    data = draw(_changed_text(_good_text("study.journal")))
    flags = ("--data.path=t.csv", "--data.target=kind", *SMALL, *QUIET)
    args = ("--study.storage=s.journal", *flags, "--study.n_trials=4")
    return Case("study", args, {"s.journal": data}, ("t.csv",))


# ------------------------------------------------------------------ logs

_WORDS = _of(
    *(
        None,
        True,
        0,
        -1,
        1.5,
        float("nan"),
        float("inf"),
        10**18,
        10**400,
        "",
        "x",
        "nan",
        "1e999",
        "1,5",
        "\x1b[31m",
        "\x00",
    ),
    *([], {}, [[]], {"a": 1}, [1, 2], ["x"], {"value": 1}),
)


@st.composite
def run_logs(draw):
    """Draw a log with values or bytes changed."""
    good = logs()
    name = draw(_of(*good))
    data = good[name]
    if name.endswith(".json") and draw(st.booleans()):
        tree = draw(_changed_tree(json.loads(data), _WORDS))
        data = json.dumps(tree).encode()
    else:
        data = mutated(data, draw(RANDOM)) if "tfevents" in name else draw(_changed_text(data))
    more = draw(_of((), (), ("--json",), ("--plot=p.png",), ("--val=val_loss",), ("--train=x",)))
    return Case("diagnose", (name, *more), {name: data})


KINDS = {
    "damaged tables": damaged_tables(),
    "strange texts": strange_texts(),
    "strange arrays": strange_arrays(),
    "strange columns": strange_columns(),
    "flags": flags(),
    "configurations": configurations(),
    "checkpoints": checkpoints(),
    "exports": exports(),
    "studies": studies(),
    "logs": run_logs(),
}
