"""A graph as the protos that TensorBoard's Graphs tab reads."""

from typing import Any

from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.versions_pb2 import VersionDef

from callbacks._graph import CONSTANT, Graph, Node, Shape


def to_graph_def(graph: Graph) -> Any:
    """The graph as a `GraphDef`: scopes as it names them, a number with its module's class (`net/Linear[0]`).

    Shapes stand in the attribute `_output_shapes`, from where TensorBoard takes what it writes on the edges.
    """
    titles = {scope: _title(scope, graph) for scope in graph.modules}
    titled = {node.name: _rename(node.name, titles) for node in graph.nodes}
    nodes = [_node(node, titled) for node in graph.nodes]
    return GraphDef(node=nodes, versions=VersionDef(producer=22))  # 22: what torch's own writer says


def _title(scope: str, graph: Graph) -> str:
    label = scope.rpartition("/")[2]
    return f"{graph.modules[scope]}[{label}]" if label.replace("_", "").isdigit() else label


def _rename(name: str, titles: dict[str, str]) -> str:
    parts = name.split("/")
    scopes = ["/".join(parts[: end + 1]) for end in range(len(parts) - 1)]
    return "/".join([*(titles.get(s, p) for s, p in zip(scopes, parts, strict=False)), parts[-1]])


def _node(node: Node, titled: dict[str, str]) -> Any:
    attributes = {key: AttrValue(s=value.encode()) for key, value in node.attributes}
    if any(shape is not None for shape in node.shapes):
        shapes = [_shape(shape) for shape in node.shapes]
        attributes["_output_shapes"] = AttrValue(list=AttrValue.ListValue(shape=shapes))
    if node.dtype:
        attributes["dtype"] = AttrValue(s=node.dtype.encode())
    sources = [source.partition(":") for source in node.inputs]
    inputs = [titled[name] + colon + number for name, colon, number in sources]
    # TensorBoard draws a Const as a small mark beside its reader.
    op = "Const" if node.op == CONSTANT else node.op
    return NodeDef(name=titled[node.name], op=op, input=inputs, attr=attributes)


def _shape(shape: Shape | None) -> Any:
    if shape is None:
        return TensorShapeProto(unknown_rank=True)
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=extent) for extent in shape])
