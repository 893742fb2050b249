"""Sweeps: a YAML table of edits to a base experiment, run in parallel and resumable (``python sweeps/run.py``)."""
