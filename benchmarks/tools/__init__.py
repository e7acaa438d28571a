"""What the benchmarks share: sizes, turns, peaks, floors, tables; and what some of them run beside the commands."""
