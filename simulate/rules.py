"""Every refusal that is not a rule of an instruction's sheet: code, sentence, source and cure.

An error names its code (``ShapeError(..., code="tensor.shape")``) and takes its cure from here.
Rules of instructions stand in their sheets, and what there is to say beyond them in `advice`;
constructs of Python have their sentences in `subset`.  One row for each code, hence the length.
"""

from __future__ import annotations

from dataclasses import dataclass

from nkiconv.simulate.advice import advice_on

__all__ = ["CATALOGUE", "Entry", "cure_of"]

_GUIDE = "NKI language guide"
_TENSOR = "NKI 0.6.0, nki.language.NkiTensor"
_PATTERNS = "NKI access-pattern deep dive"
_A2 = "NeuronCore architecture guides"
_PAGE = "NKI 0.6.0, page of the instruction"
_OURS = "this simulator"
_LNC = "NKI 0.6.0, Using Logical Neuron Cores"
_LOOPS = "NKI 0.6.0, nki.language.fori_loop; dynamic loops deep dive"


@dataclass(frozen=True, slots=True)
class Entry:
    """One refusal.

    Attributes
    ----------
    code
        ``group.slug``; never changes its meaning.
    error
        Name of the error class.
    sentence
        What must hold, in one sentence.
    source
        Who says so.
    cure
        What to do about it, short enough to end a message.
    why
        Why the hardware or the compiler has the limit, where that is known.
    limits
        Names of `Hardware` fields that hold the limit.
    """

    code: str
    error: str
    sentence: str
    source: str
    cure: str
    why: str = ""
    limits: tuple[str, ...] = ()


def _entries() -> tuple[Entry, ...]:
    e = Entry
    return (
        # What a caller hands to a kernel.
        e("argument.kind", "ConstraintError",
          "an array argument is a NumPy array or a torch tensor",
          _OURS, "convert it with numpy.asarray"),
        e("argument.device", "ConstraintError", "a torch tensor is in the host's memory",
          _OURS, "pass x.cpu()"),
        e("argument.gradients", "ConstraintError", "a torch tensor does not require gradients",
          _OURS, "pass x.detach()"),
        e("argument.dtype_torch", "DtypeError", "NumPy can hold the torch tensor",
          _OURS, "convert it to a dense tensor of a dtype that NumPy has"),
        e("argument.dtype", "DtypeError", "a NeuronCore has the array's element type",
          "NKI 0.6.0, Supported Data Types",
          "convert it first, float64 to float32 and int64 to int32",
          "No engine reads or writes 64-bit elements."),
        e("argument.empty", "ConstraintError", "an array argument has elements",
          "NKI 0.6.0, nki.language.ndarray", "skip the launch for an empty array"),
        e("argument.list", "ConstraintError", "a kernel's arguments are no lists",
          "NKI 0.3.0 release notes, Breaking Changes", "pass a tuple",
          "The compiler caches a kernel by its arguments, and a list can change."),
        e("argument.class", "ConstraintError", "an object argument is of a class from nl.NKIObject",
          f"{_GUIDE}, Class Support", "derive the class from nl.NKIObject"),
        e("argument.slots", "ConstraintError",
          "an object argument keeps its fields in its dictionary",
          f"{_GUIDE}, Class Support", "leave __slots__ away"),
        e("argument.declared", "ConstraintError", "what a parameter declares as a tensor is one",
          "NKI 0.3.0 update guide, nki.typing", "pass an array"),
        e("argument.declared_shape", "ShapeError",
          "a tensor has the shape that its parameter declares",
          "NKI 0.3.0 update guide, nki.typing", "change the annotation, or reshape the array"),
        e("argument.shared", "HazardError", "a kernel writes to no array that it was given twice",
          _OURS, "pass a copy for one of the two",
          "On the device each argument is a tensor of its own, so what is written to one would not "
          "be seen in the other."),
        # What a kernel gives back.
        e("result.memory", "ConstraintError", "a result is in HBM", _GUIDE,
          "store it with nisa.dma_copy to a tensor with buffer=nl.shared_hbm"),
        e("result.private", "ConstraintError", "a result is in nl.shared_hbm, not in nl.hbm",
          "NKI 0.3.0 release notes, Breaking Changes", "allocate it with buffer=nl.shared_hbm",
          "nl.hbm is private_hbm: memory of one core that ends with the kernel."),
        e("result.dict", "ConstraintError", "a kernel returns a tensor, or a tuple or list of them",
          _GUIDE, "return a tuple"),
        e("result.unwritten", "UninitializedReadError",
          "every element of a result has been written",
          _OURS, "check the bounds of the loops that store it",
          "On the device the rest holds whatever was in HBM before."),
        e("result.input", "HazardError", "a returned argument has been written by the kernel",
          "assumed: the documentation is silent; the vendor's library returns arguments that it "
          "wrote",
          "copy it with nisa.dma_copy to a new tensor in nl.shared_hbm",
          "A result is a buffer of its own, which an argument that nothing wrote cannot be."),
        e("result.twice", "HazardError", "results do not share memory with each other",
          "assumed: the documentation is silent", "return it once, or copy it with nisa.dma_copy",
          "Each result is a buffer of its own."),
        e("result.nothing", "ConstraintError", "a kernel returns a tensor or writes to an argument",
          "assumed: the documentation is silent",
          "return the tensor in nl.shared_hbm that it computes",
          "Without a result the compiler may drop the whole kernel as dead code."),
        e("result.not_shared", "ConstraintError", "results of two cores are in shared HBM", _LNC,
          "allocate it with buffer=nl.shared_hbm on both cores"),
        e("result.cores_differ", "HazardError", "both cores return the same tensors", _LNC,
          "return the same tensors, whatever nl.program_id is"),
        e("result.dtype_torch", "DtypeError", "torch has the result's element type",
          _OURS, "call the kernel with NumPy arrays"),
        # Launching.
        e("launch.grid", "ConstraintError", "a launch grid is one number, 1 or 2 cores", _LNC,
          "launch with kernel[2] or kernel[1]"),
        e("launch.axis", "ConstraintError", "a launch grid has one axis", _LNC, "use axis 0"),
        e("launch.generation", "ConstraintError", "two cores make a logical one from trn2 on", _LNC,
          "launch with [1], or simulate for trn2 with use_target"),
        # Two cores and on-chip loops.
        e("cores.shared_tensors", "HazardError",
          "both cores allocate the same tensors in shared HBM, in the same order", _LNC,
          "allocate them outside of what depends on nl.program_id"),
        e("cores.missing", "HazardError", "both cores come to each barrier and exchange", _LNC,
          "call it outside of what depends on nl.program_id",
          "A core that waits for one that never comes hangs."),
        e("cores.mismatch", "HazardError", "the cores meet in the same barrier or exchange", _LNC,
          "execute them in the same order on both cores"),
        e("cores.race", "HazardError",
          "what one core writes to HBM and the other touches has a barrier between", _LNC,
          "put nisa.core_barrier on the tensor between the two",
          "The cores run apart; nothing else orders their accesses to HBM."),
        e("sendrecv.tiles_differ", "ShapeError", "what is sent has the shape and dtype of what is "
          "received", "NKI 0.6.0, nki.isa.sendrecv, Constraints", "use equal tiles on both cores"),
        e("loop.result", "ConstraintError", "the body of an on-chip loop returns nothing", _LOOPS,
          "write results to a tensor from outside the loop"),
        e("loop.endless", "HazardError", "a while loop ends", _OURS,
          "store 0 to the condition at some point"),
        e("loop.body", "ConstraintError", "the body of an on-chip loop is a function", _LOOPS,
          "pass a function that takes the counter"),
        e("loop.no_reorder", "ConstraintError", "no on-chip loop stands inside nl.no_reorder",
          _LOOPS,
          "put no_reorder inside the body"),
        e("loop.step", "ConstraintError", "a step is a positive integer", _LOOPS,
          "use a Python integer"),
        e("loop.bounds", "ConstraintError", "bounds are integers or registers", _LOOPS,
          "load the bound with nisa.register_load"),
        e("loop.condition", "ConstraintError", "the condition of a while loop is a register",
          _LOOPS,
          "load it with nisa.register_load"),
        e("loop.left", "ConstraintError", "an on-chip loop is not left by break or return", _LOOPS,
          "use nl.while_loop and a condition",
          "The loop ends on the device, where Python is gone."),
        e("loop.iterations_differ", "HazardError",
          "every iteration of an on-chip loop executes the same instructions", _LOOPS,
          "take what differs out of Python: registers, masks, or a loop over range",
          "The device has one copy of the body."),
        e("jit.options", "ConstraintError", "nki.jit takes no options", "NKI 0.3.0 update guide",
          "choose the target with NEURON_PLATFORM_TARGET_OVERRIDE or use_target"),
        e("jit.function", "ConstraintError", "nki.jit decorates a function", "NKI 0.6.0, nki.jit",
          "put @nki.jit above a def"),
        # Tensors and views.
        e("tensor.buffer", "ConstraintError", "buffer is a member of nl.MemoryRegion",
          "NKI 0.3.0 release notes, Breaking Changes",
          "write buffer=nl.sbuf, nl.psum, nl.shared_hbm or nl.hbm"),
        e("tensor.address", "ConstraintError",
          "an address is an aligned place for the whole tensor in SBUF or PSUM",
          "NKI 0.6.0, nki.language.ndarray", "leave address= away, or choose another"),
        e("tensor.address_overlap", "HazardError",
          "tensors with addresses do not share bytes while both are in use",
          "NKI 0.6.0, nki.language.ndarray", "choose other addresses, or leave address= away"),
        e("tensor.whole_number", "ShapeError",
          "sizes and positions are integers known when compiling",
          f"{_GUIDE}, Tensor Values", "use // instead of /, and int for floats"),
        e("tensor.shape", "ShapeError", "a shape is a tuple or list with at least one size",
          f"{_GUIDE}, Tensor Values", "write (P, F), also for one column: (P, 1)"),
        e("tensor.size", "ShapeError", "every size is at least 1", f"{_GUIDE}, Tensor Values",
          "skip the iteration that has nothing to do"),
        e("tensor.free_dimension", "ShapeError",
          "an on-chip tensor has a partition and a free dimension",
          f"{_GUIDE}, Tensor Values", "write (P, 1) for one element per partition",
          "SBUF and PSUM are two-dimensional: partitions, and bytes in each."),
        e("tensor.partitions", "ShapeError", "dimension 0 has at most as many sizes as there are "
          "partitions", "NKI 0.6.0, nl.tile_size.pmax",
          "cut the tensor into tiles of nl.tile_size.pmax",
          "SBUF and PSUM have one partition for each of the 128 lanes of the engines.",
          ("partitions",)),
        e("tensor.index_count", "OutOfBoundsError", "there are no more indices than dimensions",
          _TENSOR, "leave one index away, or write ..."),
        e("tensor.index_bounds", "OutOfBoundsError", "an index lies within its dimension",
          _TENSOR, "check the loop that makes the index"),
        e("tensor.slice_bounds", "OutOfBoundsError", "0 <= start < end <= size; nothing is clamped",
          f"{_TENSOR}.slice", "end the slice at min(start + tile, size)",
          "An access pattern is a start, steps and counts: it has no place where a shorter last "
          "tile would be noticed."),
        e("tensor.slice_step", "OutOfBoundsError", "a step is at least 1", _TENSOR,
          "reverse by the order of the loop"),
        e("tensor.partition_step", "ConstraintError", "a slice takes neighbouring partitions",
          f"{_PATTERNS}, Restriction on SBUF/PSUM Tensors",
          "lay the data out so that the partitions are neighbours, or move it by DMA",
          "One access pattern serves all lanes; lane i reads partition start + i."),
        e("tensor.partition_first", "ConstraintError",
          "the partition dimension stays first and whole",
          _TENSOR, "move data between partitions with nisa.nc_transpose or nisa.dma_copy",
          "Each lane of an engine reaches its own partition; a view moves nothing."),
        e("tensor.ds", "OutOfBoundsError",
          "nl.ds starts at 0 or later and has a size of at least 1",
          "NKI 0.6.0, nki.language.ds", "count from the beginning"),
        e("tensor.assignment", "ConstraintError", "a tensor is written by instructions alone",
          f"{_GUIDE}, Tensor Indexing",
          "use nisa.tensor_copy, nisa.memset or nisa.dma_copy with dst="),
        e("tensor.dimension", "OutOfBoundsError", "the dimension exists", _TENSOR,
          "count dimensions from 0"),
        e("tensor.rank", "ShapeError", "a view keeps the dimensions that its memory needs",
          f"{_GUIDE}, Tensor Values", "keep a dimension of size 1"),
        e("tensor.permutation", "ShapeError", "permute names each dimension once", _TENSOR,
          "list all dimensions"),
        e("tensor.broadcast", "ShapeError", "broadcast repeats a dimension of size 1", _TENSOR,
          "slice the dimension to size 1 first"),
        e("tensor.squeeze", "ShapeError", "squeeze_dim removes a dimension of size 1", _TENSOR,
          "use select to drop a larger one"),
        e("tensor.flatten_order", "ShapeError", "flatten_dims goes from a dimension to a later one",
          _TENSOR, "swap the two"),
        e("tensor.flatten_dense", "ShapeError", "merged dimensions are dense", _TENSOR,
          "keep both dimensions, or copy to a dense tensor first"),
        e("tensor.reshape_copy", "ShapeError", "reshape needs no copy", _TENSOR,
          "reshape before slicing, or copy to a dense tensor first",
          "A view is one access pattern, a step for each dimension."),
        e("tensor.elements", "ShapeError", "the new sizes hold as many elements as the old",
          _TENSOR,
          "leave one size to -1"),
        e("tensor.rearrange", "ShapeError", "rearrange names every dimension once on both sides",
          _TENSOR, "check names and fixed_sizes"),
        e("tensor.ap_offset", "ShapeError", "an offset falls on an element of the new dtype",
          _PATTERNS, "give offset= in elements of the new dtype"),
        e("tensor.ap_pattern", "ShapeError",
          "a pattern is [[stride, count], ...], on chip with a free "
          "dimension", _PATTERNS, "start from get_pattern()"),
        e("tensor.ap_bounds", "OutOfBoundsError", "a pattern stays within its tensor", _PATTERNS,
          "check offset + sum of (count - 1) * stride against the tensor's elements"),
        e("tensor.ap_row", "ShapeError", "the bytes per partition divide into elements", _PATTERNS,
          "allocate a multiple of the item size per partition"),
        e("tensor.ap_partition_stride", "ConstraintError",
          "the partition stride is the tensor's elements per partition",
          f"{_PATTERNS}, Restriction on SBUF/PSUM Tensors",
          "take the first pair from get_pattern()"),
        e("tensor.view_contiguous", "ShapeError",
          "the last dimension of a reinterpreted view is dense",
          _TENSOR, "reinterpret before slicing"),
        e("tensor.view_size", "ShapeError",
          "sizes, strides and offset divide into the new elements",
          _TENSOR, "make the last dimension a multiple of the new item size"),
        e("tensor.run_time_address", "ConstraintError", "addresses are known when compiling",
          "not embedded yet", "use Python integers as indices"),
        e("dtype.unknown", "DtypeError", "a dtype is one of nki.language's",
          "NKI 0.6.0, Supported Data Types", "use nl.float32, nl.bfloat16, ..."),
        e("dtype.packed", "DtypeError", "packed types are for MX matmuls", "not embedded yet",
          "use nl.bfloat16 or an 8-bit float"),
        # Memories.
        e("sbuf.tensor_size", "CapacityError", "one tensor fits into a partition of SBUF",
          "NKI 0.6.0, nl.tile_size.sbuf_fmax_bytes", "cut it into tiles along the free dimension",
          "", ("sbuf_usable_bytes",)),
        e("psum.tensor_size", "CapacityError", "one tensor fits into a partition of PSUM",
          f"{_A2}, PSUM", "accumulate in tiles of one bank (nl.tile_size.psum_bank_fmax float32)",
          "PSUM has 16 KiB per partition: 8 banks of 2 KiB.", ("psum_banks", "psum_bank_bytes")),
        e("sbuf.capacity", "CapacityError", "all that is live at once fits into SBUF",
          "NKI 0.6.0, nl.tile_size.sbuf_fmax_bytes",
          "use smaller tiles, or let tensors end before others begin",
          "Nothing is spilled: what lives at the same time lies side by side in each partition.",
          ("sbuf_usable_bytes",)),
        e("psum.capacity", "CapacityError", "all that is live at once fits into the banks of PSUM",
          f"{_A2}, PSUM", "copy results to SBUF before starting more accumulations",
          "A tensor takes whole banks; there are eight.", ("psum_banks", "psum_bank_bytes")),
        e("sbuf.fragmentation", "CapacityError", "live tensors can be laid side by side in SBUF",
          _OURS, "allocate tensors of fewer different sizes"),
        e("psum.fragmentation", "CapacityError", "live tensors can be laid side by side in PSUM",
          _OURS, "allocate tensors of fewer different sizes"),
        # Programs.
        e("program.instructions", "CapacityError",
          "a program has at most five million instructions",
          "compiler errors NCC_EBVF030 and NCC_EVRF007; the number: aws-neuron-sdk issue 819",
          "make loops run on the device, or launch the kernel on smaller parts",
          "Every Python loop is unrolled, so that the count grows with the data. The compiler "
          "makes "
          "at least one machine instruction of each of ours; the true limit is lower.",
          ("program_max_instructions",)),
        e("program.outside", "ConstraintError",
          "tensors and instructions belong to a running kernel",
          "NKI 0.6.0, nki.simulate", "call the kernel, which is decorated with @nki.jit"),
        e("dma.mode", "ConstraintError", "DMA is eager or late", _OURS,
          "set NKICONV_DMA to eager or late, or unset it"),
        e("order.producer", "ConstraintError", "depends_on takes instructions",
          "NKI 0.6.0, nki.isa.NkiInstruction", "pass what the nisa function returned"),
        e("order.later", "HazardError", "an instruction depends on earlier ones of its kernel",
          "NKI 0.6.0, nki.isa.NkiInstruction", "call depends_on on the later instruction",
          "Each engine takes its instructions in order: waiting for a later one would never end."),
        e("order.edge", "ConstraintError", "an edge of with_schedule names two instructions",
          "guide to the scheduling APIs", "write (consumer, producer)"),
        e("order.name", "ConstraintError", "a name in with_schedule belongs to one instruction",
          "guide to the scheduling APIs", "give the instruction a name= of its own"),
        e("language.function", "ConstraintError", "operators stand in op= of an instruction",
          "not embedded yet", "use nisa.tensor_tensor, nisa.tensor_scalar or nisa.activation"),
        e("language.rand_dtype", "DtypeError", "random numbers between 0 and 1 are floats",
          "NKI 0.6.0, nki.language.rand", "use nl.float32"),
        e("language.random_seed", "ConstraintError", "a seed is a tensor of shape (1, 1) on chip",
          "NKI 0.4.0 release notes, Known Issues", "write the seed to one with nisa.memset"),
        e("language.dropout_tile", "ConstraintError", "dropout takes a tile",
          "NKI 0.6.0, nki.language.dropout", "load it first"),
        e("collectives.not_simulated", "ConstraintError", "one device is simulated",
          "NKI CPU simulator guide, Known Gaps", "combine the results of ranks on the host"),
        e("collectives.groups", "ConstraintError", "replica groups are lists of different ranks",
          "NKI 0.6.0, nki.collectives.ReplicaGroup", "pass [[0, 1], [2, 3]]"),
        e("register.empty", "UninitializedReadError", "a register is loaded before it is read",
          "NKI 0.6.0, nki.isa.register_alloc", "give register_alloc a number"),
        e("register.store_range", "ConstraintError", "a stored register fits the tensor's dtype",
          "NKI 0.6.0, nki.isa.register_store", "store it to an int32 tensor"),
        e("register.counter", "ConstraintError", "the counter of a loop is not written",
          "NKI 0.6.0, nki.language.fori_loop", "use a register of its own"),
        e("register.range", "ConstraintError", "a register holds 32 bits",
          "NKI 0.6.0, nki.isa.register_alloc", "keep the value within 32 bits"),
        # Operands and options of every instruction.
        e("option.not_modelled", "ConstraintError",
          "an option that is not modelled has its default",
          "not embedded yet", "leave the option at its default",
          "An argument is never accepted and ignored."),
        e("option.engine", "ConstraintError", "engine= names an engine that has the instruction",
          _PAGE, "leave engine= away, or name one of these"),
        e("operand.tensor", "ConstraintError",
          "an operand is a tensor, or a number where one may stand",
          _PAGE, "allocate it with nl.ndarray"),
        e("operand.list", "ConstraintError",
          "a list of operands has as many as the instruction takes",
          _PAGE, "pass a list"),
        e("operand.memory", "ConstraintError", "an operand is in a memory that the engine reaches",
          f"{_A2}, NeuronCore engines",
          "copy it first: nisa.dma_copy from and to HBM, nisa.tensor_copy between SBUF and PSUM",
          "TensorE reads SBUF and writes PSUM; VectorE and ScalarE reach both; GpSimdE and DMA "
          "do not "
          "reach PSUM; engines never reach HBM."),
        e("operand.dtype", "DtypeError",
          "an operand has an element type that the instruction takes",
          _PAGE, "convert it with nisa.tensor_copy to a tensor of that dtype"),
        e("operand.repeats", "HazardError", "an output's elements lie in different places", _OURS,
          "write to a dense tensor; broadcast inputs only",
          "Which of several results would stay is not defined."),
        e("operand.free_size", "ShapeError",
          "an operand has at most so many elements per partition",
          _PAGE, "cut the operand into tiles along the free dimension",
          "The instruction's buffers have this size.",
          ("stationary_max_columns", "moving_max_columns", "bn_stats_max_elems")),
        e("operand.per_partition", "ShapeError", "the operand has one element per partition", _PAGE,
          "give it the shape (P, 1)", "It is a scalar that each lane applies to all its elements."),
        e("operand.partition_start", "ConstraintError",
          "up to 32 partitions start at 0, 32, 64 or 96, up to 64 at 0 or 64, more at 0",
          f"{_A2}, Accessing SBUF/PSUM tensors",
          "start at a multiple of 32, or move the data there with nisa.dma_copy, which starts "
          "anywhere",
          "Engines reach the memory through four groups of 32 partitions.",
          ("quadrant_partitions",)),
        e("operand.free_dims", "ConstraintError",
          "an access pattern has at most four free dimensions",
          f"{_A2}, access patterns", "merge dimensions with reshape, or loop over one", "",
          ("free_dims_max",)),
        e("operand.stride", "ConstraintError", "counts are uint16 and strides int16, in elements",
          f"{_A2}, Accessing SBUF/PSUM tensors", "split the dimension, or loop over it",
          "The fields of the instruction have 16 bits.", ("count_max_elems", "stride_max_elems")),
        e("operand.read_only", "HazardError", "what is written may be written", _OURS,
          "pass a writable copy of the array"),
        e("operand.unwritten", "UninitializedReadError", "what is read has been written", _OURS,
          "write it first: nisa.memset, nisa.dma_copy, or whatever should have",
          "Memory is not cleared: the device reads what an earlier program left there, and no "
          "error "
          "tells."),
        # Accumulation in PSUM, which a table of rules cannot hold: it depends on who wrote before.
        e("nc_matmul.mixed_accumulate", "HazardError",
          "with accumulate=None, either all of dst holds a matmul's result or nothing of it",
          "NKI 0.6.0, nki.isa.nc_matmul, Accumulation mode",
          "begin with one matmul of accumulate=False that covers the whole region",
          "An instruction has one accumulate flag for all its elements."),
        e("nc_matmul.accumulate_unwritten", "UninitializedReadError",
          "accumulate=True finds a matmul's result in all of dst",
          "NKI 0.6.0, nki.isa.nc_matmul, Accumulation mode", "start with accumulate=False"),
        e("nc_matmul.accumulate_foreign", "HazardError",
          "before trn3, a matmul adds only to what a matmul wrote",
          "NKI 0.6.0, nki.isa.nc_matmul, Accumulation mode",
          "start with accumulate=False and add the other part with nisa.tensor_tensor",
          "PSUM keeps the state of an accumulation beside the data; another engine's write does "
          "not "
          "set it."),
        # Setting up, profiling, reporting.
        e("setup.variable", "ConstraintError", "NKICONV_SIMULATOR has a value that is known", _OURS,
          "unset it"),
        e("setup.vendor", "ConstraintError", "the vendor's NKI is installed where it is asked for",
          _OURS, "unset NKICONV_SIMULATOR"),
        e("setup.vendor_variable", "ConstraintError",
          "variables of the vendor's simulator ask for what happens here in any case",
          "NKI CPU simulator guide", "unset it"),
        e("setup.second_copy", "ConstraintError", "a kernel can be imported a second time", _OURS,
          "define it at the top level of a module"),
        e("setup.target", "ConstraintError", "a target is trn1, trn2, trn3 or an alias", _OURS,
          "use trn1 (also inf2), trn2 or trn3"),
        e("profile.no_kernel", "NkiconvError", "a profiled function launches a kernel", _OURS,
          "call the kernel inside"),
        e("profile.targets", "NkiconvError", "all kernels of a profile run for one target", _OURS,
          "profile them one by one"),
        e("report.file", "NkiconvError", "a report's file can be written", _OURS,
          "choose another path"),
        e("report.jinja2", "NkiconvError", "jinja2 is installed for the HTML page", _OURS,
          "pip install 'nkiconv[cli]'"),
        # Python, where no single construct is to blame; the constructs are in `subset`.
        e("python.no_function", "UnsupportedPythonError", "a kernel is a function", _GUIDE,
          "put @nki.jit above a def"),
        e("python.builtin", "UnsupportedPythonError",
          "a kernel calls only the built-ins that compile",
          _GUIDE, "work the value out on the host and pass it as an argument"),
        e("python.host_function", "UnsupportedPythonError",
          "a kernel calls no function of NumPy, torch or the standard library", _GUIDE,
          "work the value out on the host and pass it as an argument",
          "The kernel is compiled; code for the host does not exist on the device."),
        e("python.host_object", "UnsupportedPythonError", "what a kernel calls is a plain function",
          _GUIDE, "write a function"),
        e("python.outer_variable", "UnsupportedPythonError",
          "what a kernel reads of its module cannot change: numbers, strings, tuples of them",
          f"{_GUIDE}, Kernel Caching", "use a tuple or a number, or an argument",
          "A compiled kernel is cached by its arguments, so that the old value would stay in it."),
        e("python.module_assignment", "UnsupportedPythonError",
          "a kernel assigns to no variable of a module", f"{_GUIDE}, Kernel Caching",
          "return the value"),
        e("python.class_bases", "UnsupportedPythonError",
          "a class of a kernel derives from nl.NKIObject and nothing else",
          f"{_GUIDE}, Class Support", "derive from nl.NKIObject alone"),
        e("python.property", "UnsupportedPythonError",
          "a class of a kernel has plain methods and attributes",
          "no kernel of the vendor's library uses others", "write a method, or set it in __init__"),
        e("python.other", "UnsupportedPythonError", "a construct is known to compile",
          "no kernel of the vendor's library uses it", "write simpler statements"),
        e("python.changed_constant", "UnsupportedPythonError",
          "a module constant that a kernel reads never changes", f"{_GUIDE}, Kernel Caching",
          "pass it as an argument",
          "A compiled kernel is cached by its arguments, so that the old value would stay in it."),
    )  # fmt: skip


CATALOGUE: dict[str, Entry] = {entry.code: entry for entry in _entries()}

_SAID = frozenset(
    {
        "argument.device",
        "argument.dtype",
        "argument.gradients",
        "argument.list",
        "collectives.not_simulated",
        "dtype.unknown",
        "jit.options",
        "language.function",
        "loop.no_reorder",
        "nc_matmul.accumulate_foreign",
        "nc_matmul.accumulate_unwritten",
        "nc_matmul.mixed_accumulate",
        "option.engine",
        "profile.targets",
        "program.outside",
        "psum.fragmentation",
        "register.empty",
        "report.file",
        "report.jinja2",
        "result.dict",
        "result.dtype_torch",
        "result.memory",
        "sbuf.fragmentation",
        "setup.second_copy",
        "setup.target",
        "setup.variable",
        "setup.vendor",
        "tensor.ap_pattern",
        "tensor.assignment",
        "tensor.buffer",
    }
)
"""Codes whose messages say the cure in their own words already."""


def cure_of(code: str) -> str:
    """Return the cure to end a message with, or nothing where none is known or it is said."""
    entry = CATALOGUE.get(code)
    if code in _SAID or code.startswith("python."):  # whose messages end in "Write instead"
        return ""
    return entry.cure if entry is not None else advice_on(code).cure
