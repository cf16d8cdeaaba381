"""Lowering of scheduled loop nests to CPU kernels, and default schedules made of genes."""
