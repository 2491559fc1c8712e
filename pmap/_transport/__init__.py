"""How a frame gets to a worker and back: its Arrow buffers, by reference where it can be.

A frame is columns, a column is arrays, an array is a few buffers. What travels is the tree of
these with, for each buffer, the segment or file that its bytes lie in. Only bytes that lie in
none are copied, once, and only those that the rows need::

    caller                                               worker
    ──────                                               ──────
    segment of the task ── the rows' bytes, copied ──────►  maps it read-only
    segments of earlier results, shared frames, files ───►  maps them read-only: no copy
    small partitions ── IPC stream bytes in the message ─►

    mapping of the reply segment  ◄── buffers that are new: written there, once ─────────
    mappings of what was sent     ◄── buffers that came along: where they are, no bytes ──
    small results     ◄── IPC stream bytes in the message ──

The caller owns every segment, replies too: a killed worker leaks nothing, and a killed
caller's segments are freed by the kernel. A frame that the user gets *is* the mapping of the
segments its parts lie in; they go back to the pool of pages when the last such frame goes.

==============  =================================================================
module          one idea
==============  =================================================================
`_parcel`       what travels, as tuples
`_nodes`        Arrow arrays to trees of buffers and back
`_needed`       which bytes of the buffers some rows need, and nothing else
`_places`       from an address to where it lies, and back
`_files`        frames that are mapped from a file
`_columns`      frames to trees and back, and the columns that take another road
`_send`         caller's side
`_receive`      worker's side
`_shelf`        what many tasks share, once for all of them
`_closure`      large data inside the function
`_touched`      which columns a function has looked at
==============  =================================================================
"""

from pmap._transport._closure import Closure, Pickled, load_pickled
from pmap._transport._parcel import INLINE_BYTES, Blob, Inline, Parcel, is_inline
from pmap._transport._receive import (
    Received,
    also_forget,
    forget_mapped,
    load_blob,
    pack,
    pack_bytes,
    unpack,
)
from pmap._transport._send import Lent, Sender, open_blob, open_reply, put_blob, share
from pmap._transport._touched import Unused

__all__ = [
    "INLINE_BYTES",
    "Blob",
    "Closure",
    "Inline",
    "Lent",
    "Parcel",
    "Pickled",
    "Received",
    "Sender",
    "Unused",
    "also_forget",
    "forget_mapped",
    "is_inline",
    "load_blob",
    "load_pickled",
    "open_blob",
    "open_reply",
    "pack",
    "pack_bytes",
    "put_blob",
    "share",
    "unpack",
]
