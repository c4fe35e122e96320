"""Runs in TensorBoard, and the graphs read back from them."""

from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.graph_pb2 import GraphDef

from callbacks import GraphLogger


def unhurried(**flags):
    """What it draws shall not depend on what else the machine does."""
    return GraphLogger(patience=60, **flags)


def board(folder):
    return TensorBoardLogger(folder, name="run", version="")


def written(folder):
    """The graphs of a run by tag, read back from its events."""
    events = EventAccumulator(str(folder / "run"), size_guidance={"tensors": 0}).Reload()
    found = {}
    if events.Tags()["graph"]:
        found["Default"] = GraphDef.FromString(events.Graph().SerializeToString())
    for tag in events.PluginTagToContent("graph_run_metadata_graph") if events.Tags()["tensors"] else ():
        (event,) = events.Tensors(tag)
        (function,) = RunMetadata.FromString(event.tensor_proto.string_val[0]).function_graphs
        found[tag] = function.pre_optimization_graph
    return found


def of(graph, op):
    return [node.name for node in graph.node if node.op == op]


def said(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if "GraphLogger" in line]
