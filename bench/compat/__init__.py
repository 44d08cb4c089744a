"""The trial of kernels that others wrote: their sources as published, on the embedded NKI.

    kernel as published + inputs  ──►  embedded NKI  ──►  |y - r| / allowance <= 1 ?

Nothing of theirs is part of this project: the command is given the folder that holds their
checkouts.  What is run, and what it is compared with, is data: `documentation`, `samples` and
`library` list cases of the class in `case`; `worker` runs one of them in a process of its own,
`trial` all of them; `report` writes the table.
"""
