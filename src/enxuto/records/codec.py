"""Records to JSON and back: one envelope with `kind` and `version`, checked on the way in.

Arrays travel as `{"dtype", "zlib"}` (base64 of the zlib-compressed little-endian bytes), so a million blocks
stay a few megabytes; everything else is plain JSON. Reading needs numpy, never torch.
"""

from __future__ import annotations

import base64
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec
import numpy as np

from ..errors import RecordError

_ALLOWED_DTYPES = {"|i1", "|b1", "<i4", "<i8", "<f8"}


class Record(Protocol):
    """What a record must say of itself to travel as JSON."""

    kind: ClassVar[str]
    version: ClassVar[int]


RecordT = TypeVar("RecordT", bound=type)
_KINDS: dict[str, type] = {}


class _Envelope(msgspec.Struct):
    kind: str
    version: int
    body: msgspec.Raw


def register(record: RecordT) -> RecordT:
    """Class decorator: make a record known by its `kind`."""
    _KINDS[record.kind] = record  # type: ignore[attr-defined]
    return record


def to_json(record: Any) -> bytes:
    """Write a record as versioned JSON (UTF-8)."""
    body = msgspec.json.encode(record, enc_hook=_encode_array)
    envelope = _Envelope(kind=record.kind, version=record.version, body=msgspec.Raw(body))
    return msgspec.json.encode(envelope)


def from_json(text: bytes | str, *, expect: type | None = None) -> Any:
    """Read any record written by `to_json`.

    Raises:
        RecordError: not JSON, no record of ours, a newer version, or not of the expected type.
    """
    try:
        envelope = msgspec.json.decode(text, type=_Envelope)
    except msgspec.MsgspecError as error:
        raise RecordError(f"this is no enxuto record: {error}") from None
    record = _KINDS.get(envelope.kind)
    if record is None:
        raise RecordError(
            f"unknown kind of record {envelope.kind!r}; this enxuto knows {', '.join(sorted(_KINDS))}"
        )
    if envelope.version != record.version:  # type: ignore[attr-defined]
        raise RecordError(
            f"this {envelope.kind} has format version {envelope.version}, and this enxuto reads version "
            f"{record.version}: "  # type: ignore[attr-defined]
            "read it with the enxuto that wrote it, or trace again"
        )
    if expect is not None and record is not expect:
        raise RecordError(f"expected a record of kind {expect.kind!r}, found {envelope.kind!r}")  # type: ignore[attr-defined]
    try:
        found: Any = msgspec.json.decode(envelope.body, type=record, dec_hook=_decode_array)
    except (msgspec.MsgspecError, ValueError, zlib.error) as error:
        raise RecordError(f"this {envelope.kind} is corrupt: {error}") from None
    if hasattr(found, "check_columns"):
        found.check_columns()
    return found


def read(path: str | os.PathLike[str], *, expect: type | None = None) -> Any:
    """Read a record from a file.

    Raises:
        RecordError: the file is missing, unreadable, or holds no such record.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {os.fspath(path)}: {error.strerror or error}") from None
    try:
        return from_json(text, expect=expect)
    except RecordError as error:
        raise RecordError(f"{os.fspath(path)}: {error}") from None


def write(record: Any, path: str | os.PathLike[str]) -> None:
    """Write a record to a file: to a temporary name first, then renamed, so it is never half there."""
    write_atomically(path, to_json(record))


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write bytes under a temporary name beside the target, then rename.

    Raises:
        RecordError: the folder is missing or not writable.
    """
    target = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent or Path("."), prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)  # mkstemp is private; a report is an ordinary file
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RecordError(f"cannot write {target}: {error.strerror or error}") from None


def _encode_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        packed = base64.b64encode(zlib.compress(array.tobytes(), 1)).decode("ascii")
        return {"dtype": array.dtype.str, "zlib": packed}
    raise NotImplementedError(f"no JSON for {type(value)}")  # msgspec's protocol for unknown types


def _decode_array(expected: type, value: Any) -> Any:
    if expected is not np.ndarray:
        raise NotImplementedError(f"no JSON for {expected}")
    if not isinstance(value, dict):
        raise ValueError("an array is not in enxuto's packed form")
    dtype, packed = value.get("dtype"), value.get("zlib")
    if dtype not in _ALLOWED_DTYPES or not isinstance(packed, str):
        raise ValueError("an array is not in enxuto's packed form")
    return np.frombuffer(zlib.decompress(base64.b64decode(packed, validate=True)), dtype=dtype)
