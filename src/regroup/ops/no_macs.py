"""Operators that count no MACs, besides views and what PyTorch tags as pointwise.

What is not named here and has no formula is uncounted, and said to be: so no new operator is passed over.
"""

from __future__ import annotations

_ATEN = {
    "made of nothing": """
        arange bernoulli cauchy _efficientzerotensor empty empty_like empty_permuted empty_strided
        exponential eye fill full full_like geometric hann_window lift lift_fresh_copy linspace
        log_normal logspace multinomial new_empty new_empty_strided new_full new_ones new_zeros
        normal normal_functional ones ones_like poisson rand rand_like randint randint_like randn
        randn_like randperm scalar_tensor set _standard_gamma tril_indices triu_indices uniform zero
        zeros zeros_like
    """,
    "moved": """
        alias_copy as_strided as_strided_copy as_strided_scatter block_diag cat channel_shuffle
        _chunk_cat clone complex constant_pad_nd copy detach diag_embed diagonal_backward
        diagonal_copy diagonal_scatter embedding expand_copy flip gather im2col index index_copy
        index_fill index_put index_select _jagged_to_padded_dense_forward lift_fresh
        _local_scalar_dense masked_fill masked_scatter masked_scatter_backward masked_select
        max_unpool2d max_unpool3d narrow_copy native_channel_shuffle _nested_tensor_from_tensor_list
        _pack_padded_sequence _padded_dense_to_jagged_forward permute_copy _pin_memory pixel_shuffle
        pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
        replication_pad1d replication_pad2d replication_pad3d _reshape_copy resize resize_as
        _resize_output roll rot90 scatter select_backward select_scatter slice_backward
        slice_scatter split_with_sizes_copy squeeze squeeze_copy stack swapaxes t t_copy take
        _to_copy _to_dense to_mkldnn _to_sparse transpose transpose_copy tril triu unbind_copy
        unfold_copy _unsafe_index _unsafe_index_put _unsafe_masked_index unsafe_split
        unsafe_split_with_sizes _unsafe_view unsqueeze unsqueeze_copy upsample_nearest1d
        upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
        _upsample_nearest_exact3d view_copy
    """,
    "compared": """
        adaptive_max_pool2d adaptive_max_pool3d all allclose amax amin aminmax any argmax argmin
        argsort _assert_async _assert_scalar _assert_tensor_metadata bincount bucketize
        count_nonzero cummax cummin dense_dim equal fractional_max_pool2d fractional_max_pool3d
        _functional_assert_async _functional_sym_constrain_range
        _functional_sym_constrain_range_for_size histc _is_all_true _is_any_true is_coalesced
        is_pinned is_same_size isin isinf isnan kthvalue max max_pool2d_with_indices
        max_pool3d_with_indices median min mode nanmedian nonzero nonzero_static searchsorted sort
        sparse_dim sym_constrain_range sym_constrain_range_for_size topk _unique _unique2
        unique_consecutive unique_dim
    """,
    "added up": """
        _adaptive_avg_pool2d _adaptive_avg_pool3d avg_pool2d avg_pool3d col2im cumsum index_add
        logcumsumexp logsumexp mean nansum scatter_add sum trace unfold_backward
        _unsafe_masked_index_put_accumulate
    """,
    "resized": """
        upsample_bicubic2d _upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa
        _upsample_lanczos2d_aa upsample_linear1d upsample_trilinear3d
    """,
    "normalised": """
        batch_norm_elemt _batch_norm_no_update batch_norm_stats _batch_norm_with_update
        _batch_norm_with_update_functional cudnn_batch_norm _fused_rms_norm linalg_vector_norm
        _log_softmax miopen_batch_norm native_batch_norm _native_batch_norm_legit
        _native_batch_norm_legit_functional _native_batch_norm_legit_no_training native_group_norm
        native_layer_norm norm renorm _safe_softmax _softmax std std_mean var var_mean
        _weight_norm_interface
    """,
    "element by element": """
        _add_relu angle binary_cross_entropy binary_cross_entropy_with_logits celu copysign dropout
        elu feature_dropout _fused_dropout gelu glu hardshrink hardsigmoid hardswish hardtanh
        huber_loss leaky_relu log_sigmoid_forward _masked_scale mish mse_loss multi_margin_loss
        multilabel_margin_loss_forward native_dropout nll_loss2d_forward nll_loss_forward polar
        _prelu_kernel relu rrelu_with_noise rrelu_with_noise_functional sigmoid silu smooth_l1_loss
        soft_margin_loss softplus softshrink _thnn_fused_gru_cell _thnn_fused_lstm_cell threshold
        where
    """,
    "the gradient of these": """
        _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward adaptive_max_pool2d_backward
        adaptive_max_pool3d_backward avg_pool2d_backward avg_pool3d_backward batch_norm_backward
        binary_cross_entropy_backward cudnn_batch_norm_backward elu_backward
        _embedding_bag_dense_backward embedding_dense_backward fractional_max_pool2d_backward
        fractional_max_pool3d_backward _fused_rms_norm_backward gelu_backward glu_backward
        hardsigmoid_backward hardswish_backward hardtanh_backward huber_loss_backward
        leaky_relu_backward log_sigmoid_backward _log_softmax_backward_data
        max_pool2d_with_indices_backward max_pool3d_with_indices_backward miopen_batch_norm_backward
        mse_loss_backward multi_margin_loss_backward multilabel_margin_loss_backward
        native_batch_norm_backward native_dropout_backward native_group_norm_backward
        native_layer_norm_backward nll_loss2d_backward nll_loss_backward _prelu_kernel_backward
        reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward
        replication_pad1d_backward replication_pad2d_backward replication_pad3d_backward
        rrelu_with_noise_backward smooth_l1_loss_backward soft_margin_loss_backward
        _softmax_backward_data softplus_backward _thnn_fused_gru_cell_backward
        _thnn_fused_lstm_cell_backward_impl threshold_backward _upsample_bicubic2d_aa_backward
        upsample_bicubic2d_backward _upsample_bilinear2d_aa_backward upsample_bilinear2d_backward
        _upsample_lanczos2d_aa_backward upsample_linear1d_backward upsample_nearest1d_backward
        upsample_nearest2d_backward upsample_nearest3d_backward _upsample_nearest_exact1d_backward
        _upsample_nearest_exact2d_backward _upsample_nearest_exact3d_backward
        upsample_trilinear3d_backward _weight_norm_interface_backward
    """,
}

NO_MACS = frozenset(f"aten.{name}" for names in _ATEN.values() for name in names.split())
"""Names of operators, without the underscore of those that work in place."""
