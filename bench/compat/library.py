"""Cases of nki-library: its kernels, through its own tests, at the smallest sizes that these take.

Inputs, reference, tolerances, device and cores are the test's own.  Sizes are those of a test's own
list where one of them runs within about 20 s, and smaller ones where not.
"""

from __future__ import annotations

from nkiconv.bench.compat.case import Case, VendorTest

__all__ = ["CASES"]


def _case(id: str, path: str, kernel: str, module: str, test: str, arguments: str = "") -> Case:
    return Case(
        id=id,
        source="nki-library",
        path=f"src/nkilib_src/nkilib/{path}",
        kernel=kernel,
        how=VendorTest(module, test, arguments),
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
)  # fmt: skip
