"""Run the padding census."""

from benchmarks.census.run import main

main()
