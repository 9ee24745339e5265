"""The parts of `candor bench-uncertainty`: caches, runs, summary, plots and report."""
