"""What to say about rules of instructions beyond their sentence: the usual cure, and why.

Keyed by code (``nc_matmul.one_bank``) or, where several instructions share a rule, by its slug
alone (``same_elements``).
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ADVICE", "Advice", "advice_on"]


class Advice(NamedTuple):
    """Cure, short enough to end a message; reason; names of `Hardware` fields with the limit."""

    cure: str = ""
    why: str = ""
    limits: tuple[str, ...] = ()


_TILES = "slice all of them alike, or reshape"
_LANES = "Lane i of an engine works on partition i of each operand, element by element."
_NUMBER = "use a Python number that does not depend on data"

ADVICE: dict[str, Advice] = {
    # Shared by many instructions.
    "same_elements": Advice(_TILES, _LANES),
    "same_partitions": Advice(_TILES, _LANES),
    "same_size": Advice(_TILES),
    "same_free_size": Advice(_TILES, _LANES),
    "one_per_partition": Advice("give it the shape (P, 1), P as in the data", _LANES),
    "same_dtype": Advice(
        "allocate dst with the dtype of the source, and convert with nisa.tensor_copy",
        "The bits are moved as they are, without the float32 arithmetic that converts.",
    ),
    "same_start": Advice("slice both at the same partition", _LANES),
    "both_in_psum": Advice(
        "copy one of the two to SBUF with nisa.tensor_copy first",
        "An engine has one read port to PSUM.",
    ),
    "gpsimd_in_psum": Advice(
        "copy to SBUF with nisa.tensor_copy first, or name another engine",
        "GpSimdE has no connection to PSUM.",
    ),
    "bitvec_integers": Advice(
        "view the tensor as integers of the same width: .view(nl.int32)",
        "Bitvec operators take the bits as they are; arithmetic ones convert to float32.",
    ),
    "bitvec_same_dtype": Advice("give dst the dtype of data"),
    "bitvec_engine": Advice("leave engine= away", "32-bit integer logic exists on VectorE alone."),
    "operator_generation": Advice(
        "use operators that all generations have, or simulate for trn3 with use_target",
        "VectorE of NeuronCore-v4 added them.",
    ),
    "generation": Advice(
        "simulate for a newer target with use_target, or use an instruction that all have",
        "The instruction is not in the older cores.",
    ),
    "op_missing": Advice("pass an operator of nki.language, such as op=nl.add"),
    "op_kind": Advice("choose an operator from the vendor's table"),
    "op0_kind": Advice("choose an operator from the vendor's table"),
    "op1_kind": Advice("choose an operator from the vendor's table"),
    "comparison": Advice("use nl.equal, nl.less and the like"),
    "reduce_op_choice": Advice("choose one of the operators named"),
    "reduce_cmd_choice": Advice("choose one of the commands named"),
    "registers_unknown": Advice(
        "start with reduce_cmd.reset_reduce",
        "The accumulation registers keep what an earlier kernel left in them.",
    ),
    "reduce_res_idle": Advice("use reduce_cmd.reset_reduce, or leave reduce_res away"),
    "imm1_with_load": Advice("give imm1 with reduce_cmd.load_reduce, and leave it away else"),
    "reduce_init_with_load": Advice("give reduce_init with load_reduce, and leave it away else"),
    "bias_form": Advice(
        "write the number to a (P, 1) tensor with nisa.memset",
        "ScalarE of NeuronCore-v2 reads its bias from memory, one value for each partition.",
    ),
    "scale_type": Advice("convert it to float32 with nisa.tensor_copy"),
    "bias_type": Advice("use float32"),
    "reciprocal_bias": Advice("add the bias with nisa.tensor_scalar first"),
    "value_number": Advice(_NUMBER),
    "imm_number": Advice(_NUMBER),
    "offset_int32": Advice(_NUMBER),
    "index_bounds": Advice(
        "check how the indices are made", "The instruction does not look: it reads what lies there."
    ),
    "searchable": Advice(
        "search pieces of 8 to 16384 elements and merge",
        "",
        ("search_min_elems", "search_max_elems"),
    ),
    "eight_elements": Advice("allocate (P, 8)", "The search works on eight values at a time."),
    "pattern": Advice("write [[step, num], ...], outermost first"),
    "pattern_size": Advice("the product of all num is the number of elements per partition"),
    "dst_shape": Advice("allocate dst as the sentence says"),
    # TensorE.
    "nc_matmul.one_bank": Advice(
        "split the moving columns so that each result ends before the bank does: 512 float32",
        "A matmul adds into one bank; up to NeuronCore-v3 an address cannot run on into the next.",
        ("psum_bank_bytes",),
    ),
    "nc_matmul.pairs": Advice(
        "convert one of the two with nisa.tensor_copy",
        "float32 is multiplied in several passes, which both operands have to take part in.",
    ),
    "nc_matmul.result_type": Advice(
        "allocate dst as float32 and convert when copying it to SBUF", "PSUM adds in float32."
    ),
    "nc_matmul.stationary_moving_share_contracted": Advice(
        "both operands have the contracted axis on their partitions: (K, M) and (K, N)",
        "Row k of the array multiplies partition k of both.",
    ),
    "nc_matmul.dst_partition_column_stationary": Advice(
        "dst is (M, N) for stationary (K, M) and moving (K, N)",
        "Each column of the array ends in a partition of PSUM.",
    ),
    "nc_matmul.dst_element_partition_column": Advice(
        "dst is (M, N) for stationary (K, M) and moving (K, N)"
    ),
    "nc_matmul.only_ones_and_zeros": Advice("leave the flag away"),
    "nc_matmul.fp8_kinds": Advice("use one kind for both operands"),
    "nc_matmul.fp8_generation": Advice("use nl.float8_e4m3 before trn3"),
    "nc_transpose.transpose_spaces": Advice("allocate dst in PSUM, data in SBUF"),
    "nc_transpose.transpose_size": Advice(
        "transpose tile by tile",
        "TensorE has 128 x 128 processing elements; VectorE transposes blocks of 32 x 32.",
    ),
    # Others that kernels meet often.
    "tensor_copy.scalar_engine_v2": Advice("use nisa.activation with op=nl.copy"),
    "tensor_scalar.operands_match": Advice("operand0 goes with op0, operand1 with op1"),
    "tensor_scalar.operand_types": Advice("convert a (P, 1) operand to float32 first"),
    "tensor_scalar.same_kind": Advice("use two instructions"),
    "tensor_scalar.scalar_engine_takes": Advice("leave engine= away"),
    "tensor_tensor.power_engine": Advice("leave engine= away"),
    "tensor_reduce.last_axes": Advice(
        "reduce the last free axes of a permuted view, or partitions with a matmul by ones",
        "Lanes do not see each other's partitions.",
    ),
    "tensor_reduce.reduced_size": Advice("allocate dst with the kept elements, at least (P, 1)"),
    "memset.value_type": Advice("write the number without a point"),
    "memset.fits_type": Advice("choose a value within the integer type"),
    "dma_transpose.axes": Advice("leave axes= away"),
    "dma_transpose.item_size": Advice("view 1-byte data as 2-byte where pairs may stay together"),
    "dma_transpose.transposed_shape": Advice("allocate dst with the shape in the order of axes"),
    "bn_stats.dst_shape": Advice("allocate (P, 6)"),
    "bn_aggr.dst_shape": Advice("allocate (P, 2)"),
}

_NONE = Advice()


def advice_on(code: str) -> Advice:
    """Return what there is to say about a code: its own advice, else that of its slug."""
    return ADVICE.get(code) or ADVICE.get(code.partition(".")[2]) or _NONE
