"""What the bridge costs, measured: each module is a benchmark of its own (`python -m benchmarks.NAME --help`)."""
