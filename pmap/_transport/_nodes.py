"""Arrow arrays to trees of buffers, and back, without touching a byte of the data.

A node keeps the array's raw layout: row `i` of a struct is row ``i + offset`` of each child
as it lies, whatever slices `pyarrow` would show.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

from pmap._transport._parcel import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import pyarrow as pa

    from pmap._transport._parcel import Span

__all__ = [
    "cut",
    "describe",
    "is_whole",
    "kind_of",
    "rebuild",
    "renumbered",
    "spans_of",
    "width_of",
]

#: Buffers of a node itself, where those of its children follow in ``array.buffers()``.
_OWN = {"struct": 1, "fixed_size_list": 1, "large_list": 2}


def kind_of(dtype: pa.DataType) -> str:
    """Which layout an array of that type has; ``"fixed"`` for all of fixed width."""
    return _kinds().get(dtype.id, "fixed")


@cache
def _kinds() -> dict[int, str]:
    import pyarrow as pa  # noqa: PLC0415  65 ms, for those who need it

    ids = cast("Any", pa).lib
    return {
        ids.Type_NA: "null",
        ids.Type_BOOL: "bool",
        ids.Type_STRUCT: "struct",
        ids.Type_FIXED_SIZE_LIST: "fixed_size_list",
        ids.Type_LARGE_LIST: "large_list",
        ids.Type_STRING_VIEW: "view",
        ids.Type_BINARY_VIEW: "view",
        ids.Type_DICTIONARY: "dictionary",
    }


def width_of(dtype: pa.DataType) -> int:
    """Bits of a value of a type of fixed width."""
    return int(dtype.bit_width)


def describe(array: Any, locate: Callable[[pa.Buffer], Span]) -> Node:
    """The tree of an array; `locate` says of each buffer where it lies."""
    kind = kind_of(array.type)
    if kind == "dictionary":
        indices = describe(array.indices, locate)
        return indices._replace(dictionary=describe(array.dictionary, locate))
    buffers = array.buffers()[: _OWN.get(kind)]
    spans = tuple(None if buffer is None else locate(buffer) for buffer in buffers)
    children = tuple(describe(child, locate) for child in _children(array, kind))
    if kind == "struct":  # pyarrow shows them as its offset and length cut them
        children = tuple(
            child._replace(offset=child.offset - array.offset, length=child.length + array.offset)
            for child in children
        )
    return Node(len(array), array.null_count, array.offset, spans, children)


def cut(node: Node, start: int, length: int) -> Node:
    """Some of its rows: the buffers stay what they are."""
    nulls = {0: 0, node.length: length}.get(node.null_count, -1)
    return node._replace(length=length, null_count=nulls, offset=node.offset + start)


def is_whole(array: Any) -> bool:
    """Whether arrays inside it reach as far as it says.

    Polars 1.34 hands over slices of `Array` columns with the parent's offset but sliced values.
    """
    kind = kind_of(array.type)
    if kind == "fixed_size_list":
        needed = (array.offset + len(array)) * array.type.list_size
        if len(array.values) < needed:
            return False
    return all(is_whole(child) for child in _children(array, kind))


def spans_of(nodes: Iterable[Node]) -> Iterator[Span]:
    """All spans of a column's trees."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield from (span for span in node.spans if span is not None)
        waiting += node.children
        if node.dictionary is not None:
            waiting.append(node.dictionary)


def renumbered(node: Node, index: Mapping[int, int]) -> Node:
    """The same tree where places have other numbers."""
    dictionary = None if node.dictionary is None else renumbered(node.dictionary, index)
    spans = tuple(
        None if span is None else span._replace(place=index.get(span.place, span.place))
        for span in node.spans
    )
    children = tuple(renumbered(child, index) for child in node.children)
    return node._replace(spans=spans, children=children, dictionary=dictionary)


def _children(array: Any, kind: str) -> list[Any]:
    if kind == "struct":
        return [array.field(index) for index in range(array.type.num_fields)]
    return [array.values] if kind in _OWN else []


def rebuild(node: Node, dtype: pa.DataType, resolve: Callable[[Span], pa.Buffer]) -> Any:
    """The array of a tree; `resolve` gives the buffer that lies at a span."""
    import pyarrow as pa  # noqa: PLC0415  65 ms, for those who need it

    kind = kind_of(dtype)
    if kind == "dictionary":
        of = cast("Any", dtype)
        indices = rebuild(node._replace(dictionary=None), of.index_type, resolve)
        values = rebuild(cast("Node", node.dictionary), of.value_type, resolve)
        return cast("Any", pa).DictionaryArray.from_arrays(
            indices, values, ordered=of.ordered, safe=False
        )
    buffers: list[Any] = [None if span is None else _found(span, resolve) for span in node.spans]
    types = _child_types(dtype, kind)
    children = [
        rebuild(child, inner, resolve) for child, inner in zip(node.children, types, strict=True)
    ]
    new: Any = pa.Array.from_buffers
    return new(dtype, node.length, buffers, node.null_count, node.offset, children or None)


def _found(span: Span, resolve: Callable[[Span], pa.Buffer]) -> pa.Buffer:
    return resolve(span) if span.size else nothing()  # which may lie in no place at all


@cache
def nothing() -> pa.Buffer:
    """A buffer of no bytes."""
    import pyarrow as pa  # noqa: PLC0415

    return pa.py_buffer(b"")


def _child_types(dtype: Any, kind: str) -> list[pa.DataType]:
    if kind == "struct":
        return [dtype.field(index).type for index in range(dtype.num_fields)]
    return [dtype.value_type] if kind in _OWN else []
