"""Shows a run in TensorBoard: the one place that knows its writer and the protos of its plugins."""

from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_BLOB_SEQUENCE, HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from torch.utils.tensorboard.summary import hparams as hparams_summaries

from callbacks.host.packages import Trainer, kinds
from callbacks.loggers.base import Drawing, Histogram, LoggerAdapter


def tensorboard_loggers(trainer: Trainer) -> list[Any]:
    """Return the TensorBoard loggers of a trainer; none on ranks that do not write."""
    if not trainer.is_global_zero:
        return []
    return [logger for logger in trainer.loggers if isinstance(logger, kinds(".loggers.TensorBoardLogger"))]


class TensorBoardAdapter(LoggerAdapter):
    """Shows everything in TensorBoard's own tabs."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def _writer(self) -> Any:
        """The writer of events; a `validate` or `fit` before this one has closed the file, and then it is none."""
        return self._logger.experiment._get_file_writer()

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write an event each; the writer opens a file anew where the fit has closed it."""
        for tag, value in values.items():
            self._logger.experiment.add_scalar(tag, value, step)

    def write_moment(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Write what belongs to one step as one event: the writer's cost is by the event and by the byte."""
        summary = Summary()
        for tag, value in scalars.items():
            summary.value.add(tag=tag, simple_value=value)
        for tag, histogram in histograms.items():
            limits, counts = zip(*_buckets(histogram), strict=True)
            proto = HistogramProto(min=histogram.low, max=histogram.high, bucket_limit=limits, bucket=counts)
            proto.num, proto.sum, proto.sum_squares = sum(histogram.counts), histogram.total, histogram.squares
            summary.value.add(tag=tag, histo=proto)
        self._writer().add_summary(summary, step)

    def write_text(self, tag: str, text: str, step: int) -> None:
        """Write a text, shown as it stands, to the Text tab."""
        indented = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown for: leave this as it is
        self._logger.experiment.add_text(tag, indented, step)

    def write_image(self, tag: str, pixels: Any, step: int) -> None:
        """Write a picture, an array `[height, width, 3]` of bytes, to the Images tab."""
        self._logger.experiment.add_image(tag, pixels, step, dataformats="HWC")

    def write_graphs(self, graphs: Mapping[str, Drawing], step: int) -> None:
        """Write graphs to the Graphs tab: `forward` as the run's own, tag `Default`, and others by tag.

        A run has room for one `graph_def`. Each other graph goes in as Keras' do that were traced in a run: the
        metadata of a run of functions, which the tab draws like any graph (plugin `graph_run_metadata_graph`).
        """
        made = {tag: graph.graph_def() for tag, graph in graphs.items()}
        writer = self._writer()
        forward = made.pop("forward", None)
        if forward is not None:
            writer.add_event(Event(graph_def=forward.SerializeToString()), step)
        for tag, graph in made.items():
            content = RunMetadata(function_graphs=[RunMetadata.FunctionGraphs(pre_optimization_graph=graph)])
            shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
            blob = TensorProto(dtype=DT_STRING, string_val=[content.SerializeToString()], tensor_shape=shape)
            plugin = SummaryMetadata.PluginData(plugin_name="graph_run_metadata_graph", content=b"1")
            metadata = SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_BLOB_SEQUENCE)
            writer.add_summary(Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=blob)]), step)
        self._logger.experiment.flush()

    def write_charts(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Lay out the Custom Scalars tab, once a run: category -> chart -> the tags drawn on it together."""
        layout: dict[str, dict[str, list[Any]]] = {}
        for category, drawn in charts.items():
            layout[category] = {chart: ["Multiline", list(tags)] for chart, tags in drawn.items()}
        self._logger.experiment.add_custom_scalars(layout)

    def write_hyperparameters(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Tell the HParams tab the run's settings and which scalar tags are its results.

        No value is written for the results: the tab shows the latest scalar of each tag, and an empty cell before.
        """
        plain = {name: one if isinstance(one, bool | Number | str) else str(one) for name, one in values.items()}
        for summary in hparams_summaries(plain, dict.fromkeys(metrics, 0)):  # type: ignore[no-untyped-call]
            self._writer().add_summary(summary)


def _buckets(histogram: Histogram) -> list[tuple[float, float]]:
    """Return upper edge and count of each bin, empty neighbours as one: a checksum in Python goes over every byte."""
    counts, low = histogram.counts, histogram.low
    width, last = (histogram.high - low) / len(counts), len(counts) - 1
    return [(low + width * (i + 1), n) for i, n in enumerate(counts) if n or i == last or counts[i + 1]]
