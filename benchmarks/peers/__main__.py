"""Runs `benchmarks.peers.run`."""

import sys

if __name__ == "__main__":  # and not in the processes that are spawned, which need nothing of it
    from benchmarks.peers.run import main

    main(sys.argv[1:])
