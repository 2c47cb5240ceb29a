"""Faults on purpose: each is a kind and a seed, and leaves a store, a journal or a run that is then looked over.

    python -m tests.faults --count 1000 --page docs/results/faults.md
    python -m tests.faults --kind "kill -9 while adding" --seed 17

The same seed gives the same fault, but for kills by the clock: these meet whatever the process is just doing.
"""
