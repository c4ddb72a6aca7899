"""
A failure, for people: as a table, as a page with a slider, as a file for trace viewers, and in words.

Everything here works on plain data, a `Failure` with its `Trace`; nothing is run.
"""
