"""Traces of a real kernel: read what ftrace or perf recorded, plan a replay, replay it."""
