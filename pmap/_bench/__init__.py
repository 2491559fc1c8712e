"""The command ``python -m pmap bench``: pmap beside what a user would pick instead, in one run.

==============  =================================================================
module          one idea
==============  =================================================================
`_contenders`   who maps: loops, pools and pmap, each as its documentation says
`_foreign`      those with frames of their own: dask's, ray's, pandas'
`_functions`    what is mapped
`_real`         real data, and the libraries that work on them
`_workloads`    the rows of the table: data, functions, and who can say it
`_table`        the contenders, and what each can take part in
`_host`         a process in which one contender runs one workload
`_share`        a process that runs the plain loop on its share: the ideal
`_hosts`        the caller's side of it
`_processes`    memory and CPU seconds of a process and all below it
`_compare`      rounds of calls, in shuffled order
`_scripts`      whole programs, from their start to their first result
`_limits`       what this machine can do at best
`_curves`       time over rows, partitions, columns and workers; fitted overheads
`_profile`      where the time of the paths that are used most goes
`_machine`      what was measured, on what
`_text`         tables for a terminal
`_page`         the same as a page of HTML, with plots
`_plots`        plots as SVG
`_choice`       what was asked for, and whether it can be had
`_memory`       how many rows there is memory for
`_bar`          what is being measured, on a terminal
`_run`          the command's course
==============  =================================================================

A workload is one `Workload` in `_workloads.WORKLOADS`, a contender one `Entry` in
`_table.CONTENDERS`. How rows are cut into parts, and what pmap is told about it, are
fields of the workload, so that keyed or lazy work is a row like any other.
"""
