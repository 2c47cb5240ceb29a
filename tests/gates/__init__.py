"""Faults planted in the method, in retrieval and in scoring, and the nightly's gates that catch them.

`python -m tests.gates --page docs/results/gates.md` plants each of `faults.FAULTS` into a process of its own, which
runs notebooks of the nightly with a few questions, and holds what they write against the same run without a fault.
"""
