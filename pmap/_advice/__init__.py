"""What would be faster than what was asked for, or wrong with it.

Before a map: ``_trace`` watches one call, ``_expressions`` and ``_verdict`` judge what it saw,
``_partition_test`` tries parts against the whole, ``_measure`` finds what bounds the function,
``_translate`` and ``_substitute`` look for native code and prove it, ``_explanation`` words it
all; none of them is imported before `explain` is called, or a check is asked for.

After one: ``_run`` says what the very run has measured.
"""
