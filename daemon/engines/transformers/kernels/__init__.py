"""Compiled kernels for CPUs: what PyTorch's operators are slow at in the small steps of a running batch."""
