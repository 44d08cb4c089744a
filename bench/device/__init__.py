"""Kernels on a NeuronCore: compiled, compared with the reference, timed.  Not yet run on one."""
