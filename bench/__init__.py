"""The `nkiconv` command: checks, filters, profiles and benchmarks on the simulated NeuronCore.

Nothing is imported here: the command line needs extra packages (``pip install 'nkiconv[cli]'``),
and says so when they are missing.
"""
