"""`checkpoint=`: finished partitions on disk, so that a job that was killed goes on.

=============  =====================================================================
`_checkpoint`  one job's: what it is, and whether what is there is of the same
`_resume`      the carrier that reads what is finished instead of running it
`_finished`    the files of finished partitions, and the journal of which count
`_folder`      a folder of one's own: locked, its files whole or not there
`_content`     digests of frames
`_digest`      digests of functions, part by part, with `_names` (what code refers to),
               `_origin` (whose it is) and `_values` (what it holds)
=============  =====================================================================
"""

from pmap._checkpoint._checkpoint import Checkpoint
from pmap._checkpoint._resume import ResumingCarrier

__all__ = ["Checkpoint", "ResumingCarrier"]
