"""Messages of partitions lose nothing on their way, whatever is in them."""

from __future__ import annotations

import pickle

import pytest

from pmap._gauge import Usage
from pmap._plain import dump_reply, dump_task, load_message, load_reply
from pmap._segment import Shared
from pmap._transport import Blob, Inline, Unused
from pmap._transport._parcel import Columns, Node, Span, Streamed
from pmap._wire import Reply, Stats, TaskMessage, describe_error

SHARED = Shared("/proc/1/fd/3", 7)
NODE = Node(3, 0, 0, (None, Span(0, 8, 24)))
PARCELS = [
    Inline(b""),
    Inline(b"rows", ((0, True),)),
    Streamed(SHARED, 4096, 100),
    Columns(b"schema", ((NODE,),), (SHARED,), 24, names=("a", "b"), rest=Inline(b"b")),
]
STATS = Stats(1, 2.0, 3.0, 0.5, 0.25, 100, 200)


def kinds(value):
    """Of a message and all in it: tuples of different classes may be equal."""
    inner = tuple(map(kinds, value)) if isinstance(value, tuple) else ()
    return type(value), inner


def assert_same(found, wanted):
    assert found == wanted
    assert kinds(found) == kinds(wanted)


@pytest.mark.parametrize("parcel", PARCELS)
@pytest.mark.parametrize("reply", [None, SHARED])
@pytest.mark.parametrize("slot", [None, 0, 3])
def test_a_task(parcel, reply, slot):
    task = TaskMessage(b"terms", parcel, 5, 1, 10, reply, slot)
    assert_same(load_message(dump_task(task)), task)


@pytest.mark.parametrize("parcel", [None, *PARCELS])
@pytest.mark.parametrize("blob", [None, Blob(b""), Blob(None, SHARED, 10)])
@pytest.mark.parametrize("usage", [None, Usage(), Usage(1.0, pool=0.5)])
def test_a_reply(parcel, blob, usage):
    stats = STATS._replace(threads=1, usage=usage, unused=Unused(("a",), 8, 16))
    reply = Reply(parcel, blob, None, stats, (("stdout", "text"),), released=True)
    assert_same(load_reply(dump_reply(reply)), reply)


def test_an_error():
    reply = Reply(None, None, describe_error(ZeroDivisionError("why"), "doing"), STATS)
    assert_same(load_reply(dump_reply(reply)), reply)


def test_messages_of_other_kinds_pass():
    assert_same(load_message(pickle.dumps(SHARED)), SHARED)
