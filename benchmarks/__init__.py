"""What lagkit costs and gains in time and memory, each measured by a command: `python -m benchmarks.NAME`."""
