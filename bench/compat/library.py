"""Cases of nki-library: its kernels, through its own tests, at the smallest sizes that these take.

Inputs, reference, tolerances, device and cores are the test's own.  Sizes are those of a test's own
list where one of them runs within about 20 s, and smaller ones where not.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from nkiconv.bench.compat.case import Call, Case, Example, VendorTest

__all__ = ["CASES"]


def _topk_reduce(rng: np.random.Generator) -> Example:
    """Rows of tokens scattered over a buffer, each with its token's number in the last columns."""
    T, K, H, ranks = 4, 4, 256, 8
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    rows = rng.standard_normal((T * K, H)).astype(bfloat16)
    tokens = np.arange(T, dtype=np.int32).repeat(K)
    buffer = np.full((ranks * T, H + 2), -1, dtype=bfloat16)
    numbers = tokens[:, None].view(bfloat16)
    buffer[rng.permutation(ranks * T)[: T * K]] = np.concatenate([rows, numbers], axis=1)
    sums = rows.astype(np.float32).reshape(T, K, H).sum(axis=1)
    return Example((buffer, T, K), (sums,), rtol=5e-2, atol=5e-2)


def _case(
    id: str, path: str, kernel: str, module: str, test: str, arguments: str = "",
    because: str = "", target: str = "",
) -> Case:  # fmt: skip
    return Case(
        id=id,
        source="nki-library",
        path=f"src/nkilib_src/nkilib/{path}",
        kernel=kernel,
        how=VendorTest(module, test, arguments, target),
        because=because or _BECAUSE.get(id, ""),
    )


def _cumsum(id: str, arguments: str) -> Case:
    return _case(
        id, "core/cumsum/cumsum.py", "cumsum", "core.cumsum.test_cumsum",
        "TestCumsumKernel.test_cumsum_fast", arguments,
    )  # fmt: skip


def _mask(id: str, arguments: str, test: str) -> Case:
    return _case(
        id, "core/attention/gen_mask_tkg.py", "gen_mask_tkg", "core.attention.test_gen_mask_tkg",
        f"TestGenMaskTkgHbm.{test}", arguments,
    )  # fmt: skip


def _conv1d(id: str, arguments: str) -> Case:
    return _case(
        id, "experimental/conv/conv1d.py", "conv1d", "experimental.conv.test_conv1d",
        "TestConv1DKernel.test_conv1d_basic", arguments,
    )  # fmt: skip


def _view(id: str, test: str, arguments: str) -> Case:
    return _case(
        id, "core/utils/tensor_view.py", "TensorView", "core.utils.test_tensor_view",
        test, arguments,
    )  # fmt: skip


_LOSS = (
    "CompilerArgs(), namespace(tensors={CE_CONFIG: {B_DIM: 2, T_DIM: 8, V_DIM: 512,"
    " DTYPE_DIM: 'float32', PB_DIM: 8, CS_DIM: 256}})"
)
_MOE = (
    "nl.bfloat16, 0, False, False, None, ActFnType.SiLU, ExpertAffinityScaleMode.POST_SCALE, None,"
    " None, None, None, False, request=namespace(node=namespace(callspec=namespace(id='')))"
)
_MOE_MX = (
    "2, ActFnType.Swish, ExpertAffinityScaleMode.POST_SCALE, nl.bfloat16, nl.float4_e2m1fn_x4, 1,"
    " True, False, 7.0, None, 7.0, -7.0, False, None, platform_target=Platforms.TRN3"
)
_UNWRITTEN = (
    "reads elements that nothing has written, in lanes whose results are not used: the device"
    " computes on what was there before, and stores none of it"
)
_SCALES = "moves whole tiles of MX scales, of which it has written four partitions in 32"
_UNTOUCHED = (
    "the test's kernel returns an argument that it has not written: its shapes are the test"
)
_INTEGER = (
    "passes dge_mode as an integer (_DGE_MODE_NONE = 3 or 0), which NKI refuses since 0.3.0"
    " (migration guide, Integer enum constants)"
)
_MEMSET = (
    "sets PSUM to 0 by memset and lets matmuls add to it: undefined on trn2 (nki.isa.nc_matmul,"
    " Accumulation mode)"
)
_RACE = "both cores write the same elements of shared HBM, and no barrier orders them: "
_BASE = "reads base_tensor of a tensor, which NKI 0.6.0 does not have"
_RANKS = "communicates with other devices, and one is simulated (nor does the vendor's simulator)"

# Why a case is not run to its end, by its id.
_BECAUSE = {
    "view-slice": _UNTOUCHED,
    "view-permute": _UNTOUCHED,
    "view-reshape": _UNTOUCHED,
    "view-broadcast": _UNTOUCHED,
    "view-cast": _UNTOUCHED,
    "attention-bwd": _MEMSET,
    "attention-bwd-packed": _MEMSET,
    "depthwise-conv1d": _MEMSET,
    "depthwise-conv1d-padded": _MEMSET,
    "layernorm-tkg": _INTEGER,
    "layernorm-tkg-lnc2": _INTEGER,
    "rmsnorm-tkg": _INTEGER,
    "rmsnorm-tkg-lnc2": _INTEGER,
    "moe-tkg-all": _INTEGER,
    "moe-tkg-selective": _INTEGER,
    "moe-tkg-in-sbuf": _INTEGER,
    "moe-block-tkg": _INTEGER,
    "attention-block": _INTEGER,
    "attention-tkg-rope": _UNWRITTEN,
    "attention-tkg-lnc2": _UNWRITTEN,
    "find-nonzero": _UNWRITTEN,
    "find-nonzero-with-count": _UNWRITTEN,
    "rmsnorm-mx-quantize": _SCALES,
    "quantize-mx": _SCALES,
    "mlp-gate-up-mxfp4": _UNWRITTEN,
    "mlp-down-mxfp4": _UNWRITTEN,
    "moe-cte-block": _UNWRITTEN,
    "moe-cte-mx-block": _UNWRITTEN,
    "moe-cte-intermediate": _RACE + "zeroes the result on both before it adds to it",
    "moe-cte-intermediate-hybrid": _RACE + "zeroes the result on both before it adds to it",
    "moe-cte-mx-intermediate": _RACE + "zeroes the result on both before it adds to it",
    "moe-bwd": _RACE + "zeroes a gradient that the other core may have written already",
    "mxfp-load": "calls nl.range, which NKI 0.6.0 does not have",
    "moe-tkg-mx-all": _BASE,
    "moe-tkg-mx-dynamic": _BASE,
}

CASES = (
    _cumsum("cumsum-f32", "1, 256, 2, 1, np.float32"),
    _cumsum("cumsum-128x2048-f32", "128, 2048, 2, 1, np.float32"),
    _cumsum("cumsum-3d-bf16", "64, 1024, 3, 4, ml_dtypes.bfloat16"),
    _case(
        "rope", "core/embeddings/rope.py", "RoPE", "core.embeddings.test_rope",
        "TestRopeKernel.test_rope_fast", "64, 1, 1, 16, True, False",
    ),
    _case(
        "rope-strided", "core/embeddings/rope.py", "RoPE", "core.embeddings.test_rope",
        "TestRopeKernel.test_rope_fast", "128, 8, 8, 16, False, False",
    ),
    _case(
        "rope-relayout", "core/embeddings/rope.py", "RoPE", "core.embeddings.test_rope",
        "TestRopeKernel.test_rope_fast", "64, 1, 1, 16, False, True",
    ),
    _case(
        "rope-hf", "core/embeddings/rope_hf.py", "rope_hf", "core.embeddings.test_rope_hf",
        "TestRopeHFKernel.test_rope_hf_lnc", "1, 4, 2, 256, 128, nl.bfloat16, False, 1",
    ),
    _case(
        "rope-hf-lnc2", "core/embeddings/rope_hf.py", "rope_hf", "core.embeddings.test_rope_hf",
        "TestRopeHFKernel.test_rope_hf_lnc", "1, 4, 2, 256, 128, nl.float32, False, 2",
    ),
    _case(
        "rope-hf-backward", "core/embeddings/rope_hf.py", "rope_hf",
        "core.embeddings.test_rope_hf", "TestRopeHFKernel.test_rope_hf_lnc",
        "1, 4, 2, 256, 128, nl.float32, True, 1",
    ),
    _case(
        "cascaded-max", "core/max/cascaded_max.py", "cascaded_max", "core.max.test_cascaded_max",
        "TestCascadedMaxKernel.test_cascaded_max_unit", "1, 8, 5, 4058, nl.float32",
    ),
    _case(
        "cascaded-max-lnc2", "core/max/cascaded_max.py", "cascaded_max",
        "core.max.test_cascaded_max", "TestCascadedMaxKernel.test_cascaded_max_unit",
        "2, 8, 5, 4058, nl.float32",
    ),
    _case(
        "folded-load", "core/max/cascaded_max_utils.py", "folded_load, folded_store",
        "core.max.test_cascaded_max_utils",
        "TestCascadedMaxUtils.test_folded_load_store_full_batch", "1, 8, 256, 1",
    ),
    _case(
        "folded-load-partial", "core/max/cascaded_max_utils.py", "folded_load, folded_store",
        "core.max.test_cascaded_max_utils",
        "TestCascadedMaxUtils.test_folded_load_store_partial_batch", "1, 16, 256, 2, 4, 12",
    ),
    _case(
        "topk", "core/topk/rotational_topk.py", "topk", "core.topk.test_topk",
        "TestTopKKernel.test_topk_unit", "2, 8, 5, 4058, 256, nl.float32",
    ),
    _case(
        "topk-lnc1", "core/topk/rotational_topk.py", "topk", "core.topk.test_topk",
        "TestTopKKernel.test_topk_unit", "1, 4, 5, 8192, 256, nl.float32",
    ),
    _case(
        "topk-unsorted", "core/topk/rotational_topk.py", "topk", "core.topk.test_topk",
        "TestTopKKernel.test_topk_unsorted", "2, 8, 5, 4058, 256, nl.float32",
    ),
    _mask("mask", "4, 1, 256, 1, True, 1", "test_flat_kv"),
    _mask("mask-block", "4, 1, 256, 5, 16, 1", "test_block_kv"),
    _mask("mask-active", "4, 1, 256, 5, 0, True, 1", "test_active_mask"),
    _mask("mask-window", "4, 1, 1024, 5, 128, 0, True, 1", "test_swa"),
    _mask("mask-tiled-lnc2", "8, 8, 8192, 5, 0, True, 2", "test_fa_tiling"),
    _case(
        "attention-cte", "core/attention/attention_cte.py", "attention_cte",
        "core.attention.test_attention_cte",
        "TestRangedAttentionCTEKernels.test_attention_cte_no_cp_unit",
        "1, 512, 512, 64, 0.5, np.float32, False, True, False, 0.0",
    ),
    _case(
        "attention-cte-causal", "core/attention/attention_cte.py", "attention_cte",
        "core.attention.test_attention_cte",
        "TestRangedAttentionCTEKernels.test_attention_cte_no_cp_unit",
        "1, 512, 512, 128, 1.0, nl.bfloat16, True, True, False, 0.0",
    ),
    _case(
        "attention-cte-lnc2", "core/attention/attention_cte.py", "attention_cte",
        "core.attention.test_attention_cte",
        "TestRangedAttentionCTEKernels.test_attention_cte_no_cp_vnc_unit",
        "2, 2, 512, 512, 64, 0.125, np.float32, True, True, False, False, 0, (0.0, None)",
    ),
    _case(
        "attention-cte-packed", "core/attention/attention_cte.py", "attention_cte",
        "core.attention.test_attention_cte",
        "TestRangedAttentionCTEKernels.test_attention_cte_seq_pack_unit",
        "1, 1, 1, 1024, 96, 1.0, np.float32, False, True, False, 0, 4",
    ),
    _case(
        "attention-tkg", "core/attention/attention_tkg.py", "attention_tkg",
        "core.attention.test_attention_tkg", "TestAttentionTkgKernel.test_attn_tkg_fast",
        "AttnTKGConfig(4, 1, 5, 1024, 1024, 128, 0, qk_in_sb=True), 1, AttnTKGTestParams()",
    ),
    _case(
        "attention-tkg-rope", "core/attention/attention_tkg.py", "attention_tkg",
        "core.attention.test_attention_tkg", "TestAttentionTkgKernel.test_attn_tkg_fast",
        "AttnTKGConfig(4, 2, 7, 256, 512, 128, 0, tp_k_prior=True, use_pos_id=True,"
        " fuse_rope=True), 1, AttnTKGTestParams()",
    ),
    _case(
        "attention-tkg-lnc2", "core/attention/attention_tkg.py", "attention_tkg",
        "core.attention.test_attention_tkg", "TestAttentionTkgKernel.test_attn_tkg_fast",
        "AttnTKGConfig(4, 1, 5, 1024, 1024, 128, 0, qk_in_sb=True), 2, AttnTKGTestParams()",
    ),
    _case(
        "attention-bwd", "core/attention/attention_bwd.py", "attention_bwd",
        "core.attention.test_attention_bwd", "TestAttentionBwdKernel.test_attention_bwd_fast",
        "1, 1, 1, 512, 128, nl.bfloat16, True, None, 0",
    ),
    _case(
        "attention-bwd-trn3", "core/attention/attention_bwd.py", "attention_bwd",
        "core.attention.test_attention_bwd", "TestAttentionBwdKernel.test_attention_bwd_fast",
        "1, 1, 1, 512, 128, nl.bfloat16, True, None, 0",
        target="trn3",
    ),
    _case(
        "attention-bwd-packed", "core/attention/attention_bwd.py", "attention_bwd",
        "core.attention.test_attention_bwd",
        "TestAttentionBwdKernel.test_attention_bwd_sequence_packing",
        "1, 1, 128, nl.bfloat16, [256, 256], True, 0, None",
    ),
    _case(
        "output-projection-cte",
        "core/output_projection/output_projection_cte/output_projection_cte.py",
        "output_projection_cte", "core.output_projection.test_output_proj_cte",
        "TestOutputProjCteKernel.test_output_proj_cte_bf16_unit", "1, 128, 512, 2, 64, True",
    ),
    _case(
        "output-projection-cte-fp8",
        "core/output_projection/output_projection_cte/output_projection_cte.py",
        "output_projection_cte", "core.output_projection.test_output_proj_cte",
        "TestOutputProjCteKernel.test_output_proj_cte_static_fp8_unit",
        "1, 128, 512, 2, 128, False",
    ),
    _case(
        "output-projection-cte-mxfp4",
        "core/output_projection/output_projection_cte/output_projection_cte.py",
        "output_projection_cte", "core.output_projection.test_output_proj_cte",
        "TestOutputProjCteKernel.test_output_proj_cte_mxfp4_unit",
        "1, 128, 512, 4, 128, False, platform_target=Platforms.TRN3",
    ),
    _case(
        "output-projection-tkg", "core/output_projection/output_projection_tkg.py",
        "output_projection_tkg", "core.output_projection.test_output_proj_tkg",
        "TestOutputProjTkgKernel.test_output_proj_tkg_unit",
        "4, 8, 4, 32, 3072, QuantizationType.NONE, True, True",
    ),
    _case(
        "output-projection-tkg-plain", "core/output_projection/output_projection_tkg.py",
        "output_projection_tkg", "core.output_projection.test_output_proj_tkg",
        "TestOutputProjTkgKernel.test_output_proj_tkg_unit",
        "4, 8, 4, 64, 1024, QuantizationType.NONE, False, False",
    ),
    _case(
        "rmsnorm-quant", "core/rmsnorm/rmsnorm_quant.py", "rmsnorm_quant_kernel",
        "core.rmsnorm.test_rmsnorm_quant", "TestRmsNormQuantKernel.test_rmsnorm_quant_vnc_unit",
        "128, 0.0, 1, 1, 1024, 896, QuantizationType.ROW",
    ),
    _case(
        "rmsnorm-quant-lnc2", "core/rmsnorm/rmsnorm_quant.py", "rmsnorm_quant_kernel",
        "core.rmsnorm.test_rmsnorm_quant", "TestRmsNormQuantKernel.test_rmsnorm_quant_vnc_unit",
        "256, 0.5, 2, 1, 1024, 896, QuantizationType.ROW",
    ),
    _case(
        "router-topk", "core/router_topk/router_topk.py", "router_topk",
        "core.router_topk.test_router_topk", "TestRouterTopkKernel.test_router_topk",
        "4, 3072, 128, 4, RouterActFnType.SOFTMAX, True, False, False, False, False, False, False,"
        " False, True, 0, 0",
    ),
    _case(
        "router-topk-sigmoid", "core/router_topk/router_topk.py", "router_topk",
        "core.router_topk.test_router_topk", "TestRouterTopkKernel.test_router_topk",
        "4, 3072, 128, 4, RouterActFnType.SIGMOID, False, True, True, False, False, False, False,"
        " False, False, 0, 0",
    ),
    _case(
        "find-nonzero", "core/subkernels/find_nonzero_indices.py", "find_nonzero_indices",
        "core.subkernels.test_find_nonzero_indices",
        "TestFindNonzeroIndicesKernel.test_find_nonzero_indices_fast",
        "4096, 128, 8, 4096, nl.int32",
    ),
    _case(
        "find-nonzero-with-count",
        "experimental/benchmark/find_nonzero_indices_with_count.py",
        "find_nonzero_indices_with_count",
        "experimental.benchmark.test_find_nonzero_indices_with_count",
        "TestFindNonzeroIndicesWithCountKernel.test_find_nonzero_indices_unit",
        "128, 0.5, None, platform_target=Platforms.TRN3",
    ),
    _case(
        "indexed-flatten", "core/subkernels/indexed_flatten.py", "indexed_flatten",
        "core.subkernels.test_indexed_flatten",
        "TestIndexedFlattenKernel.test_indexed_flatten_fast", "4096, 1, 128",
    ),
    _case(
        "layernorm-tkg", "core/subkernels/layernorm_tkg.py", "layernorm_tkg",
        "core.subkernels.test_layernorm_tkg", "TestLayerNormTKGKernel.test_layernorm_tkg_unit",
        "1, 1, 8, 1024, False, np.float16",
    ),
    _case(
        "layernorm-tkg-lnc2", "core/subkernels/layernorm_tkg.py", "layernorm_tkg",
        "core.subkernels.test_layernorm_tkg", "TestLayerNormTKGKernel.test_layernorm_tkg_unit",
        "2, 1, 1, 1024, False, np.float16",
    ),
    _case(
        "rmsnorm-tkg", "core/subkernels/rmsnorm_tkg.py", "rmsnorm_tkg",
        "core.subkernels.test_rmsnorm_tkg", "TestRmsNormTKGKernel.test_rmsnorm_tkg_unit",
        "1, 1, 8, 1024, None, False, False, np.float16",
    ),
    _case(
        "rmsnorm-tkg-lnc2", "core/subkernels/rmsnorm_tkg.py", "rmsnorm_tkg",
        "core.subkernels.test_rmsnorm_tkg", "TestRmsNormTKGKernel.test_rmsnorm_tkg_unit",
        "2, 1, 8, 1024, None, False, False, np.float16",
    ),
    _case(
        "rmsnorm-mx-quantize", "core/subkernels/rmsnorm_mx_quantize_tkg.py",
        "rmsnorm_mx_quantize_tkg", "core.subkernels.test_rmsnorm_mx_quantize_tkg",
        "TestRmsNormQuantizeMxTKGKernel.test_rmsnorm_mx_quantize_tkg",
        "32, 1, 512, None, np.float16, np.float16, nl.float8_e4m3fn_x4,"
        " platform_target=Platforms.TRN3",
    ),
    _case(
        "quantize-mx", "core/utils (test kernel)", "quantize_mx", "core.utils.test_quantize_to_mx",
        "TestQuantizeToMxHardware.test_quantize_mx_hw",
        "128, 512, nl.float8_e4m3fn_x4, nl.bfloat16, platform_target=Platforms.TRN3",
    ),
    _case(
        "cross-partition-copy", "core/utils/cross_partition_copy.py", "cross_partition_copy",
        "core.utils.test_cross_partition_copy", "TestCrossPartitionCopy.test_cross_partition_copy",
        "0, 64, 32, 8, 128",
    ),
    _case(
        "tp-broadcast", "core/utils/tp_broadcast.py", "tp_broadcast",
        "core.utils.test_tp_broadcast", "test_tp_broadcast", "(5, 7), 0, 1, None",
    ),
    _case(
        "tp-broadcast-view", "core/utils/tp_broadcast.py", "tp_broadcast",
        "core.utils.test_tp_broadcast", "test_tp_broadcast", "(3, 8, 11), 1, 2, 4",
    ),
    _view("view-slice", "TestTensorView.test_slice", "(128, 64), nl.sbuf, 0, 0, 64, 1"),
    _view("view-permute", "TestTensorView.test_permute", "(128, 32, 16), (0, 2, 1), nl.sbuf"),
    _view("view-reshape", "TestTensorView.test_reshape", "(128, 4, 6), (128, 24), nl.sbuf"),
    _view("view-broadcast", "TestTensorView.test_broadcast", "(128, 1, 64), 1, nl.sbuf, 8"),
    _view("view-cast", "TestTensorView.test_reinterpret_cast", "nl.sbuf, nl.float32, nl.bfloat16"),
    _view("view-dynamic", "TestDynamicTensorView.test_dynamic_select",
          "(4, 2, 8), (('select_dynamic', (0, 1)),)"),
    _conv1d("conv1d", "1, 16, 32, 20, 3, 1, 0, 0, 1, False, None, False, nl.float32"),
    _conv1d(
        "conv1d-silu", "1, 16, 32, 20, 3, 1, 0, 0, 1, True, ActFnType.SiLU, False, nl.float32"
    ),
    _conv1d(
        "conv1d-strided",
        "2, 64, 128, 40, 5, 2, 2, 2, 2, True, ActFnType.GELU, False, nl.float32",
    ),
    _conv1d("conv1d-lnc2", "1, 128, 256, 100, 3, 1, 1, 1, 1, True, None, True, nl.bfloat16"),
    _case(
        "depthwise-conv1d", "experimental/conv/depthwise_conv1d.py",
        "depthwise_conv1d_implicit_gemm", "experimental.conv.test_depthwise_conv1d",
        "TestDepthwiseConv1d.test_depthwise_conv1d_fast",
        "1, 16, 512, 64, (1, 1), ((0, 0), (0, 0)), nl.bfloat16",
    ),
    _case(
        "depthwise-conv1d-trn3", "experimental/conv/depthwise_conv1d.py",
        "depthwise_conv1d_implicit_gemm", "experimental.conv.test_depthwise_conv1d",
        "TestDepthwiseConv1d.test_depthwise_conv1d_fast",
        "1, 16, 512, 64, (1, 1), ((0, 0), (0, 0)), nl.bfloat16",
        target="trn3",
    ),
    _case(
        "depthwise-conv1d-padded", "experimental/conv/depthwise_conv1d.py",
        "depthwise_conv1d_implicit_gemm", "experimental.conv.test_depthwise_conv1d",
        "TestDepthwiseConv1d.test_depthwise_conv1d_fast",
        "1, 32, 512, 7, (1, 2), ((0, 0), (3, 3)), nl.bfloat16",
    ),
    _case(
        "dynamic-add", "experimental/dynamic_shapes/dynamic_elementwise_add.py",
        "dynamic_elementwise_add", "experimental.dynamic_shapes.test_dynamic_elementwise_add",
        "TestDynamicElementwiseAdd.test_dynamic_elementwise_add_fast", "256, 512",
    ),
    _case(
        "cross-entropy", "experimental/loss/cross_entropy.py", "cross_entropy_forward",
        "experimental.loss.test_cross_entropy_forward",
        "TestCrossEntropyForwardSweep.prepare_test_parametrized", _LOSS,
    ),
    _case(
        "cross-entropy-bwd", "experimental/loss/cross_entropy.py", "cross_entropy_backward",
        "experimental.loss.test_cross_entropy_backward",
        "TestCrossEntropyBackwardSweep.prepare_test_parametrized", _LOSS,
    ),
    _case(
        "mxfp-load", "experimental/mxfp_subkernels/mxfp_load_utils.py",
        "mxfp_load_performance_wrapper", "experimental.mxfp_subkernels.test_mxfp_load",
        "TestMxfpLoadPerformance.test_mxfp_load_performance", "1024",
    ),
    _case(
        "qkv-cte", "core/qkv/qkv_cte.py", "qkv (context encoding)", "core.qkv.test_qkv_cte",
        "TestQkvCteKernel.test_qkv_cte_accuracy_unit",
        "1, 1, 128, 512, None, 512, nl.bfloat16, NormType.RMS_NORM, True, False, 1e-6",
    ),
    _case(
        "qkv-cte-f32", "core/qkv/qkv_cte.py", "qkv (context encoding)", "core.qkv.test_qkv_cte",
        "TestQkvCteKernel.test_qkv_cte_accuracy_unit",
        "1, 1, 128, 512, None, 512, np.float32, NormType.RMS_NORM, True, False, 1e-6",
    ),
    _case(
        "qkv-cte-rope-lnc2", "core/qkv/qkv_cte.py", "qkv (context encoding)",
        "core.qkv.test_qkv_cte", "TestQkvCteKernel.test_qkv_cte_fused_rope_unit",
        "2, 1, 256, 1024, 2, 1, 128, NormType.NO_NORM, False, False, False, False,"
        " QKVOutputLayout.BSD, 1e-6, True",
    ),
    _case(
        "qkv-cte-transposing-dma", "core/qkv/qkv_cte.py", "qkv (context encoding)",
        "core.qkv.test_qkv_cte", "TestQkvCteKernel.test_qkv_cte_performance_bsd_unit",
        "2, 1, 256, 1024, 512, NormType.NO_NORM, True, False, True, False, 1e-6",
    ),
    _case(
        "qkv-cte-mxfp8", "core/qkv/qkv_cte.py", "qkv (MX)", "core.qkv.test_qkv_cte",
        "TestQkvCteKernel.test_qkv_cte_mxfp8_neutral_mx_scales",
        "1, 128, 512, 2, 1, 128, QKVOutputLayout.BSD, False, platform_target=Platforms.TRN3",
    ),
    _case(
        "qkv-tkg", "core/qkv/qkv_tkg.py", "qkv_tkg", "core.qkv.test_qkv_tkg", "TestQkvTkg", "",
        because="the library's test does not load: it uses a name that it does not import",
    ),
    _case(
        "moe-tkg-all", "core/moe/moe_tkg/all_expert_impl.py", "moe_tkg (all experts)",
        "core.moe.moe_tkg.test_moe_tkg", "TestMoeTkgKernel.test_moe_tkg_bfloat16",
        "2, 4, 512, 64, 4, None, ActFnType.Swish, ExpertAffinityScaleMode.POST_SCALE, True, None,"
        " QuantizationType.NONE, nl.float16, True, True",
    ),
    _case(
        "moe-tkg-selective", "core/moe/moe_tkg/selective_expert_impl.py", "moe_tkg (selective)",
        "core.moe.moe_tkg.test_moe_tkg", "TestMoeTkgKernel.test_moe_tkg_bfloat16",
        "2, 1, 512, 128, 4, 1, ActFnType.Swish, ExpertAffinityScaleMode.POST_SCALE, False, None,"
        " QuantizationType.NONE, nl.float16, True, False",
    ),
    _case(
        "moe-tkg-in-sbuf", "core/moe/moe_tkg/moe_tkg.py", "moe_tkg",
        "core.moe.moe_tkg.test_moe_tkg", "TestMoeTkgKernel.test_moe_tkg_sbuf_io",
        "2, 4, 512, 128, 2, None, ActFnType.SiLU, ExpertAffinityScaleMode.POST_SCALE, True,"
        " nl.bfloat16, False, False",
    ),
    _case(
        "moe-tkg-mx-all", "core/moe/moe_tkg/all_expert_mx_impl.py", "_all_expert_moe_tkg_mx",
        "core.moe.moe_tkg.test_moe_tkg", "TestMoeTkgKernel.test_moe_tkg_mx",
        "2, 32, 1024, 512, 1, None, ActFnType.Swish, ExpertAffinityScaleMode.POST_SCALE, True,"
        " nl.float4_e2m1fn_x4, QuantizationType.MX, nl.bfloat16, True, True,"
        " platform_target=Platforms.TRN3",
    ),
    _case(
        "moe-tkg-mx-dynamic", "core/moe/moe_tkg/all_expert_mx_impl.py", "_all_expert_mx_dynamic",
        "core.moe.moe_tkg.test_moe_tkg", "TestMoeTkgKernel.test_moe_tkg_dynamic",
        "2, 128, 1024, 1024, 1, None, ActFnType.Swish, ExpertAffinityScaleMode.POST_SCALE, True,"
        " nl.float4_e2m1fn_x4, QuantizationType.MX, nl.bfloat16, True, True, 0.03125, 16,"
        " platform_target=Platforms.TRN3",
    ),
    _case(
        "moe-block-tkg", "core/moe_block/moe_block_tkg.py", "moe_block_tkg",
        "core.moe_block.test_moe_block_tkg", "TestMoEBlockTkgKernel.test_moe_block_kernel_unit",
        "2, False, 1, 1, 1024, None, 384, 16, 16, 4, RouterActFnType.SOFTMAX, ActFnType.Swish,"
        " ExpertAffinityScaleMode.POST_SCALE, nl.bfloat16, nl.float16, False, False, False, False,"
        " False, False, nl.float16",
    ),
    _case(
        "moe-cte-intermediate", "core/moe/moe_cte/bwmm_shard_on_I.py",
        "blockwise_mm_baseline_shard_intermediate", "core.moe.moe_cte.test_moe_cte",
        "TestMoeBlockwiseMatMulLnc2.test_moe_blockwise_mm_kernel_lnc2",
        f"BWMMFunc.SHARD_ON_INTERMEDIATE, 512, 512, 4, 256, 2, 256, {_MOE}",
    ),
    _case(
        "moe-cte-intermediate-hybrid", "core/moe/moe_cte/bwmm_shard_on_I.py",
        "blockwise_mm_baseline_shard_intermediate_hybrid", "core.moe.moe_cte.test_moe_cte",
        "TestMoeBlockwiseMatMulLnc2.test_moe_blockwise_mm_kernel_lnc2",
        f"BWMMFunc.SHARD_ON_INTERMEDIATE_HW, 512, 512, 4, 256, 2, 256, {_MOE}",
    ),
    _case(
        "moe-cte-block", "core/moe/moe_cte/bwmm_shard_on_block.py", "bwmm_shard_on_block",
        "core.moe.moe_cte.test_moe_cte",
        "TestMoeBlockwiseMatMulLnc2.test_moe_blockwise_mm_kernel_lnc2",
        f"BWMMFunc.SHARD_ON_BLOCK, 512, 512, 4, 128, 2, 256, {_MOE}",
    ),
    _case(
        "moe-cte-mx-block", "core/moe/moe_cte/bwmm_shard_on_block_mx.py",
        "bwmm_shard_on_block_mx", "core.moe.moe_cte.test_moe_bwmm_mx_cte",
        "TestMoeBwmmMxCteKernel.test_moe_bwmm_mx_cte_unit", f"2, 1536, 512, 384, 4, 128, {_MOE_MX}",
    ),
    _case(
        "moe-cte-mx-intermediate", "core/moe/moe_cte/bwmm_shard_on_I_mx.py",
        "blockwise_mm_shard_intermediate_mx", "core.moe.moe_cte.test_moe_bwmm_mx_cte",
        "TestMoeBwmmMxShardIKernel.test_moe_bwmm_mx_shard_I_unit",
        f"2, 1536, 512, 1024, 4, 256, {_MOE_MX}",
    ),
    _case(
        "moe-cte-hidden", "experimental/moe/forward/bwmm_shard_on_H.py",
        "blockwise_mm_baseline_shard_hidden", "experimental.moe.test_bwmm_shard_on_H",
        "TestMoeBlockwiseMatMulShardH.run_bwmm_h_test",
        "CompilerArgs(logical_nc_config=2), namespace(tensors={BWMM_H_CONFIG: {TOKENS_DIM: 512,"
        " HIDDEN_DIM: 1024, INTERMEDIATE_DIM: 256, EXPERT_DIM: 4, BLOCK_SIZE_DIM: 128,"
        " TOP_K_DIM: 1, DTYPE_DIM: nl.bfloat16, SKIP_DIM: 0,"
        " SCALING_MODE_DIM: ExpertAffinityScaleMode.POST_SCALE,"
        " CHECKPOINT_ACTIVATION_DIM: False}}),"
        " 2",
    ),
    _case(
        "moe-bwd", "experimental/moe/bwd/bwmm_bwd_dropless.py", "blockwise_mm_bwd",
        "experimental.moe.test_bwmm_bwd",
        "TestMoeBlockwiseMatMulBwdShardHAffinityHDroplessLnc2"
        ".test_moe_blockwise_mm_bwd_shardH_affinityH_dropless_lnc2",
        "1024, 512, 4, 256, 1, 256, nl.bfloat16, 0, ClampLimits(), False, ActFnType.SiLU",
    ),
    _case(
        "mlp-gate-up-mxfp4", "core/mlp/mlp_tkg/gate_up_projection_mx_shard_H.py",
        "gate_up_projection_mx_tp_shard_H", "core.mlp.test_mlp_proj_mxfp4",
        "TestMlpProjMxfp4Kernel.test_mxfp4_gate_up_proj_unit",
        "4, 3072, 192, platform_target=Platforms.TRN3",
    ),
    _case(
        "mlp-down-mxfp4", "core/mlp/mlp_tkg/down_projection_mx_shard_H.py",
        "down_projection_mx_shard_H", "core.mlp.test_mlp_proj_mxfp4",
        "TestMlpProjMxfp4Kernel.test_mxfp4_down_proj_unit",
        "4, 3072, 192, True, platform_target=Platforms.TRN3",
    ),
    _case(
        "mlp", "core/mlp/mlp.py", "mlp", "core.mlp.test_mlp_tkg", "TestMlpTkgKernel", "",
        because="not Python: a part of the docstring of mlp.py is there twice",
    ),
    _case(
        "attention-block", "experimental/transformer/attention_block_tkg.py",
        "attention_block_tkg", "experimental.transformer.test_attention_block_tkg",
        "TestRangeAttnBlk.test_attn_blk_megakernel",
        "AttnBlkTestConfig(4, 8, 64, 1024, None, 256, 256, 1)",
    ),
    _case(
        "transformer-tkg", "experimental/transformer/transformer_tkg.py", "transformer_tkg",
        "experimental.transformer.test_transformer_tkg", "TestTransformerTkg", "",
        because="imports mlp.py, which is not Python",
    ),
    _case(
        "sb2sb-allgather", "experimental/collectives/sb2sb_allgather.py", "allgather_sb2sb",
        "experimental.collectives.test_sb2sb_allgather", "TestSb2sbAllgather.test_allgather_sb2sb",
        "128, 512, nl.bfloat16, 8", because=_RANKS,
    ),
    _case(
        "sb2sb-allgather-tiled", "experimental/collectives/sb2sb_allgather.py",
        "allgather_sb2sb_tiled", "experimental.collectives.test_sb2sb_allgather",
        "TestSb2sbAllgather.test_allgather_sb2sb_tiled", "128, 512, nl.bfloat16, 4, 2",
        because=_RANKS,
    ),
    _case(
        "fgcc", "experimental/collectives/fgcc.py", "allgather_compute_matmul",
        "experimental.collectives.test_fgcc", "TestFgcc.test_allgather_compute_matmul",
        "1024, 4096, 4096, nl.bfloat16, 4, 2, False", because=_RANKS,
    ),
    _case(
        "fg-allgather", "experimental/collectives/fg_allgather.py", "fine_grained_allgather",
        "experimental.collectives.test_fg_allgather", "TestFgAllgather.test_fine_grained_allgather",
        "1024, 4096, nl.bfloat16, 4, 2, False", because=_RANKS,
    ),
    Case(
        "topk-reduce", "nki-library",
        "src/nkilib_src/nkilib/experimental/collectives/topk_reduce.py", "topk_reduce",
        Call(
            _topk_reduce, folders=("src",),
            module="nkilib_src.nkilib.experimental.collectives.topk_reduce",
        ),
    ),
    Case(
        "topk-reduce-lnc2", "nki-library",
        "src/nkilib_src/nkilib/experimental/collectives/topk_reduce.py", "topk_reduce",
        Call(
            _topk_reduce, grid=2, folders=("src",),
            module="nkilib_src.nkilib.experimental.collectives.topk_reduce",
        ),
    ),
)  # fmt: skip
