"""The records of a TensorBoard event file, as they stand in it."""

from collections.abc import Iterator


def event_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of an event file, each as it stands there and the event in it; one cut short ends them.

    A record is a length of 8 bytes, its checksum of 4, the event, its checksum of 4 (TFRecord, tensorflow/tensorflow,
    core/lib/io/record_writer.h). The checksums are not compared.
    """
    at = 0
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 8], "little")
        end = at + 16 + length
        if end > len(content):
            return
        yield content[at:end], content[at + 12 : end - 4]
        at = end
