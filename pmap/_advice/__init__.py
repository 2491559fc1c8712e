"""What pmap says about a function before it is mapped: whether, how, and what to write instead.

``_trace`` watches one call, ``_expressions`` and ``_verdict`` judge what it saw,
``_partition_test`` tries parts against the whole, ``_measure`` finds what bounds the function,
``_translate`` and ``_substitute`` look for native code and prove it, ``_explanation`` words it
all. None of them is imported before `explain` is called, or a check is asked for.
"""
