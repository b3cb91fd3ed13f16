"""The benches' own correctness: a figure is worth what measured it."""
