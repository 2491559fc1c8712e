"""Values as bytes that are the same in every run: not their pickles, which tell what is one object."""

from __future__ import annotations

import copyreg
import hashlib
import io
import types
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from pmap._checkpoint._content import digest_of_frame
from pmap.errors import UnsupportedDtypeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Values"]

_PLAIN = frozenset(
    {*(int, float, complex, bool, str, bytes), type(None), type(...), type(NotImplemented)}
)
#: Of pickles: what the pickles of values are made of.
_PROTOCOL = 5


class Values:
    """Tokens of values, each object looked at once.

    Parameters
    ----------
    label
        What stands for a function, a class or a module.
    """

    def __init__(self, label: Callable[[Any], str]) -> None:
        self._label = label
        self._known: dict[int, tuple[object, bytes]] = {}
        self._under_way: set[int] = set()

    def token(self, value: object) -> bytes:
        """The same for equal values in any process, another for others."""
        kind = type(value)
        if kind in _PLAIN:
            return f"{kind.__name__}:{value!r}".encode("utf-8", "surrogatepass")
        if id(value) in self._known:
            return self._known[id(value)][1]
        if id(value) in self._under_way:
            return f"inside itself:{kind.__qualname__}".encode()
        self._under_way.add(id(value))
        try:
            token = _joined(self._pieces(value))
        finally:
            self._under_way.discard(id(value))
        self._known[id(value)] = value, token  # held, so that no other object gets its id
        return token

    def _pieces(self, value: Any) -> Iterator[bytes]:
        kind = cast("type[object]", type(value))
        yield kind.__qualname__.encode()
        if isinstance(value, types.FunctionType | types.ModuleType | type):
            yield self._label(value).encode()
        elif kind in (list, tuple):
            yield from self._of_items(value)
        elif kind in (set, frozenset):
            yield from sorted(map(self.token, value))
        elif kind is dict:
            yield from self._of_items(value.keys())
            yield from self._of_items(value.values())
        elif isinstance(value, types.CodeType):
            yield from self._of_code(value)
        elif isinstance(value, types.MethodType):
            yield from self._of_items((value.__func__, value.__self__))
        else:
            yield from self._of_data(value)

    def _of_items(self, items: Iterable[object]) -> Iterator[bytes]:
        """One by one, unless all are plain: then at once, which is much faster."""
        if _PLAIN.issuperset(map(type, items)):
            yield repr(list(items)).encode("utf-8", "surrogatepass")
        else:
            yield from map(self.token, items)

    def _of_code(self, code: types.CodeType) -> Iterator[bytes]:
        """Without file, lines and the table of them."""
        yield code.co_code
        yield code.co_exceptiontable
        for part in (
            (code.co_qualname, code.co_flags, code.co_argcount),
            (code.co_posonlyargcount, code.co_kwonlyargcount),
            (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
            code.co_consts,
        ):
            yield self.token(part)

    def _of_data(self, value: Any) -> Iterator[bytes]:
        package = type(value).__module__.partition(".")[0]
        if isinstance(value, pl.DataFrame | pl.Series):
            frame = value if isinstance(value, pl.DataFrame) else value.to_frame()
            yield digest_of_frame(frame).encode()
        elif package == "numpy" and hasattr(value, "dtype") and not hasattr(value, "mask"):
            yield from self._of_array(value)
        elif package == "pyarrow" and hasattr(value, "schema") and hasattr(value, "slice"):
            yield _of_table(value)
        elif isinstance(value, bytearray | memoryview):
            yield bytes(cast("bytearray", value))
        else:
            yield from self._of_object(value)

    def _of_array(self, value: Any) -> Iterator[bytes]:
        yield f"{value.dtype.descr if value.dtype.names else value.dtype.str} {value.shape}".encode()
        yield self.token(value.tolist()) if value.dtype.hasobject else value.tobytes()

    def _of_object(self, value: Any) -> Iterator[bytes]:
        """What a pickle of it would be made of; of what can not be pickled the class counts."""
        kind = cast("type[object]", type(value))
        try:
            known = copyreg.dispatch_table.get(kind)
            reduced: Any = known(value) if known else value.__reduce_ex__(_PROTOCOL)
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001  it runs what the class likes
            yield self.token(kind)
            return
        if isinstance(reduced, str):
            yield f"{getattr(value, '__module__', '')}.{reduced}".encode()
            if hasattr(value, "__wrapped__"):  # as with functools.lru_cache
                yield self.token(value.__wrapped__)
            return
        made, arguments, *more = reduced
        yield self.token(made)
        yield from self._of_items(arguments)
        yield self.token(more[0] if more else None)
        for items in more[1:3]:  # of a list, and of a dict
            yield from self._of_items(list(items or ()))


def _joined(pieces: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(f"{len(piece)}:".encode())
        digest.update(piece)
    return digest.digest()


def _of_table(table: Any) -> bytes:
    """Of pyarrow: by what Polars sees in it, or as Arrow writes it."""
    try:
        frame = pl.from_arrow(table)
        return digest_of_frame(cast("pl.DataFrame", frame)).encode() + str(table.schema).encode()
    except (pl.exceptions.PolarsError, UnsupportedDtypeError):
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.ipc  # noqa: PLC0415

        sink = io.BytesIO()
        with pyarrow.ipc.new_stream(cast("Any", pa).PythonFile(sink), table.schema) as writer:
            writer.write(table)
        return sink.getvalue()
