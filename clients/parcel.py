"""What goes through the socket between a site's door and its worker: a header of JSON, and the arrays' bytes as they are.

    "SSP1" | length of the header (8 bytes) | header | one array's bytes after another

Flower's records come back exactly: names, order, numbers, texts, bytes, lists. Nothing is pickled, and all sizes are bounded.
"""

import json
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

MAGIC = b"SSP1"
START = struct.Struct(">4sQ")
MOST_HEADER = 256 << 20
"""Bytes of a header, in which all texts of an order lie; a federation's largest have some MB."""
MOST_BYTES = 16 << 30
"""Bytes of all arrays together."""


class Gone(ConnectionError):
    """Whoever is at the other end has hung up, or died."""


def send(line: socket.socket, told: Mapping[str, Any], content: RecordDict | None = None) -> None:
    """Send plain data, and with it the records of a message.

    Raises:
        Gone: nobody is at the other end any more.
        ValueError: it is more than a parcel may hold.
    """
    blobs: list[bytes] = []
    records = None if content is None else [[name, *_laid_out(record, blobs)] for name, record in content.items()]
    header = json.dumps({"told": told, "records": records, "blobs": [len(blob) for blob in blobs]}).encode()
    if len(header) > MOST_HEADER or sum(map(len, blobs)) > MOST_BYTES:
        raise ValueError(f"a message of {_mb(len(header) + sum(map(len, blobs)))} MB does not fit between door and worker")
    try:
        line.sendall(START.pack(MAGIC, len(header)) + header)
        for blob in blobs:
            line.sendall(blob)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Gone(str(error)) from None


def receive(stream: BinaryIO) -> tuple[dict[str, Any], RecordDict | None]:
    """The next parcel: what `send` was given.

    Raises:
        Gone: the other end hung up before the parcel was whole.
        ValueError: it is no parcel, or a larger one than may be.
    """
    magic, length = START.unpack(_read(stream, START.size))
    if magic != MAGIC or length > MOST_HEADER:
        raise ValueError("not a parcel of door and worker")
    header = json.loads(_read(stream, length))
    try:
        told, records, sizes = header["told"], header["records"], header["blobs"]
        if not all(isinstance(size, int) and size >= 0 for size in sizes) or sum(sizes) > MOST_BYTES:
            raise ValueError("sizes that cannot be")
        blobs = (_read(stream, size) for size in sizes)
        found = {name: _record(kind, entries, blobs) for name, kind, entries in records or ()}
        content = None if records is None else RecordDict(found)
    except (AttributeError, KeyError, StopIteration, TypeError, RuntimeError) as error:
        raise ValueError(f"not a parcel of door and worker ({type(error).__name__})") from None
    return told, content


# Records <-> plain data and bytes -----------------------------------------------------------------------------------------


def _laid_out(record: ArrayRecord | ConfigRecord | MetricRecord, blobs: list[bytes]) -> tuple[str, list[Any]]:
    """A record's kind and its entries as plain data; what is bytes is put at the end of `blobs`."""
    if not isinstance(record, ArrayRecord):
        kind = "config" if isinstance(record, ConfigRecord) else "metrics"
        return kind, [[key, _plain(value, blobs)] for key, value in record.items()]
    blobs += [array.data for array in record.values()]
    return "arrays", [[key, array.dtype, list(array.shape), array.stype] for key, array in record.items()]


def _record(kind: str, entries: list[Any], blobs: Iterator[bytes]) -> ArrayRecord | ConfigRecord | MetricRecord:
    if kind == "arrays":
        return ArrayRecord({key: Array(dtype, tuple(shape), stype, next(blobs)) for key, dtype, shape, stype in entries})
    values = {key: _value(plain, blobs) for key, plain in entries}
    return ConfigRecord(values) if kind == "config" else MetricRecord(values)


def _plain(value: Any, blobs: list[bytes]) -> Any:
    """A value as JSON has it. It has no bytes: they become an empty object (a record holds none), and follow as a blob."""
    if isinstance(value, list):
        return [_plain(item, blobs) for item in value]
    if isinstance(value, bytes):
        blobs.append(value)
        return {}
    return value


def _value(plain: Any, blobs: Iterator[bytes]) -> Any:
    if isinstance(plain, list):
        return [_value(item, blobs) for item in plain]
    return next(blobs) if isinstance(plain, dict) else plain


def _read(stream: BinaryIO, size: int) -> bytes:
    """So many bytes; the socket's own errors mean that nobody is there any more."""
    try:
        content = stream.read(size)
    except ConnectionError as error:
        raise Gone(str(error)) from None
    if len(content) < size:
        raise Gone("hung up")
    return content


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"
