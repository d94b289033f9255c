"""What an ATen operation costs in multiply-adds.

One MAC is one multiplication and the addition that follows it, as papers on efficient networks count them: only
convolutions and matrix products cost anything; biases, normalisation, activations, pooling, interpolation and
elementwise arithmetic are free, and so is moving data about. Products with padding zeros count.

An operation has a rule here, or is known to be free, or is reported as uncounted. Operators of other libraries get a
rule the same way:

    @rules.register("mylib::binary_conv2d")
    def _(out, x, weight, stride): return out.numel() * weight[0].numel()
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from lilliput.registry import Registry

Rule = Callable[..., int]  # (result of the operation, its arguments) -> multiply-adds
rules: Registry[Rule] = Registry("counted operation")


@rules.register("aten::convolution")
@rules.register("aten::convolution_overrideable")
def _convolution(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    *rest: Any,
) -> int:
    """Σ over outputs of (c_in/g)·Πk; a transposed convolution does (c_out/g)·Πk for each of its inputs.

    In both layouts that product is the size of one slice of the weight along its first axis.
    """
    return (x if transposed else out).numel() * prod(weight.shape[1:])


@rules.register("aten::mkldnn_convolution")
@rules.register("aten::cudnn_convolution")
@rules.register("aten::cudnn_convolution_relu")
@rules.register("aten::cudnn_convolution_add_relu")
def _backend_convolution(out: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    return out.numel() * prod(weight.shape[1:])


@rules.register("aten::mm")
@rules.register("aten::bmm")
@rules.register("aten::_int_mm")
@rules.register("aten::_scaled_mm")
def _mm(out: Tensor, a: Tensor, b: Tensor, *rest: Any, **options: Any) -> int:
    return a.numel() * b.shape[-1]


@rules.register("aten::addmm")
@rules.register("aten::baddbmm")
@rules.register("aten::addbmm")
@rules.register("aten::_addmm_activation")
def _addmm(out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **options: Any) -> int:
    return a.numel() * b.shape[-1]


@rules.register("aten::mv")
@rules.register("aten::dot")
@rules.register("aten::vdot")
def _mv(out: Tensor, a: Tensor, b: Tensor, **options: Any) -> int:
    return a.numel()


@rules.register("aten::addmv")
def _addmv(out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **options: Any) -> int:
    return a.numel()


@rules.register("aten::_scaled_dot_product_flash_attention_for_cpu")
@rules.register("aten::_scaled_dot_product_flash_attention")
@rules.register("aten::_scaled_dot_product_efficient_attention")
@rules.register("aten::_scaled_dot_product_cudnn_attention")
@rules.register("aten::_scaled_dot_product_fused_attention_overrideable")
def _attention(out: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> int:
    """q·kᵀ and its product with v: L·S·(E + E_v) for every head; a causal mask saves nothing."""
    rows = q.numel() // max(q.shape[-1], 1)
    return rows * k.shape[-2] * (q.shape[-1] + v.shape[-1])


@rules.register("aten::mkldnn_rnn_layer")
def _recurrent(out: Any, x: Tensor, inner: Tensor, hidden: Tensor, *rest: Any) -> int:
    """Both weight matrices once for every step of every sequence; `x` is (steps, batch, features)."""
    return prod(x.shape[:2]) * (inner.numel() + hidden.numel())


# Operations that the tags of PyTorch do not mark as pointwise, reductions or views, and that cost no multiply-add.
_NORMS = """native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_no_update
    batch_norm cudnn_batch_norm miopen_batch_norm native_layer_norm native_group_norm _fused_rms_norm _softmax
    _log_softmax _safe_softmax linalg_vector_norm native_dropout"""
_ACTIVATIONS = """hardswish mish threshold _prelu_kernel rrelu_with_noise glu log_sigmoid_forward _thnn_fused_lstm_cell
    _thnn_fused_gru_cell fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams _fake_quantize_learnable_per_tensor_affine
    _fake_quantize_learnable_per_channel_affine _fused_moving_avg_obs_fq_helper quantize_per_tensor
    quantize_per_channel dequantize"""
_POOLS = """avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool1d_with_indices
    max_pool2d_with_indices max_pool3d_with_indices _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d
    adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d mkldnn_max_pool2d max_unpool2d max_unpool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa
    _upsample_bicubic2d_aa grid_sampler_2d grid_sampler_3d affine_grid_generator"""
_LAYOUT = """cat stack _unsafe_view copy _to_copy clone contiguous lift_fresh lift lift_fresh_copy set_ resize_
    constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle roll flip rot90 repeat
    repeat_interleave index index_select index_put _unsafe_index _unsafe_index_put gather scatter scatter_add
    scatter_reduce index_copy index_add index_fill select_scatter slice_scatter diagonal_scatter masked_select
    masked_scatter masked_fill take tril triu im2col col2im unfold_copy embedding _embedding_bag to_mkldnn
    to_dense mkldnn_reorder_conv2d_weight _reshape_alias _reshape_copy view_copy permute_copy transpose_copy
    expand_copy slice_copy split_copy split_with_sizes_copy unbind_copy detach squeeze unsqueeze transpose t
    as_strided _unsafe_masked_index"""
_MAKING = """empty empty_like empty_strided empty_permuted new_empty new_empty_strided new_zeros new_ones new_full
    zeros zeros_like ones ones_like full full_like scalar_tensor arange linspace logspace eye rand rand_like randn
    randn_like randint randint_like randperm bernoulli uniform normal random exponential multinomial zero fill"""
_ORDER = """sort topk kthvalue median mode cumsum cumprod cummax cummin _cummax_helper nonzero unique_dim _unique2
    searchsorted bucketize histc bincount logcumsumexp _assert_async _assert_tensor_metadata _local_scalar_dense
    is_same_size equal isin item sym_size sym_numel sym_stride"""
_FREE = frozenset(f"aten::{name}" for g in (_NORMS, _ACTIVATIONS, _POOLS, _LAYOUT, _MAKING, _ORDER) for name in g.split())
_FREE_TAGS = (torch.Tag.pointwise, torch.Tag.reduction)


@cache
def is_free(operation: Any) -> bool:
    """Whether the papers' convention gives an operation no multiply-adds.

    Forms that work in place or into a given output are as free as the plain one, whether they are tagged or not.
    """
    name = operation._schema.name
    if name in _FREE or name.removesuffix("_") in _FREE or name.startswith("prim::"):
        return True
    packet = operation._overloadpacket
    forms = [operation, *(getattr(packet, overload) for overload in packet.overloads())]
    return bool(operation.is_view) or any(tag in form.tags for form in forms for tag in _FREE_TAGS)
