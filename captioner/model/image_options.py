"""Which options of an image encoder reach timm: an explicit list, since configurations are written by others.

Only what shapes an architecture passes, as numbers, words and lists of them. What loads, downloads or names files
(`checkpoint_path`, `pretrained_cfg`, …) never does. Knows nothing about how an encoder is built.
"""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

OURS = ("name", "image_size", "stem", "mean", "std", "interpolation", "crop_pct", "crop_mode")
LOCAL = "local-dir:"  # before a folder that timm saved a model in
SET_HERE = ("num_classes", "in_chans", "global_pool", "img_size")  # of every backbone alike, whatever a folder says
OF_TIMM = """
    aa_stem_only abs_win_pos_embed act_layer always_partition attn attn_act_layer attn_drop_rate attn_groups
    attn_head_dim_reduction attn_mlp attn_mlp_ratio attn_only_layer_scale attn_pool_mlp_ratio attn_pool_num_heads
    attn_ratio attn_stage attn_type attn_types attn_upsample avg_down b base_dim base_dims base_width basic
    bidirectional block_config block_reduce_first block_type bn_size bottle_ratio bottleneck_width_ratio cardinality
    ch_div channel_attention channel_attn_v2 channel_multiplier channels class_token cls_attn_layers cls_ratio
    conv_bias conv_init conv_mlp conv_ratio cpe_act crop_scale d2_scales deepen_factor depth depth_list depth_mult
    depth_multiplier depth_token_only depths dim dim_mul dims distilled down_kernel_size down_op down_ops down_pad
    down_patch_size down_stride downsample downsample_block downsample_expand_ratios downsample_kernel_size
    downsample_padding downsample_ratio downsamples drop_block_rate drop_block_size drop_path_rate drop_rate
    dw_act_layer dynamic_img_pad dynamic_img_size embed_dim embed_dims encoder_pool eta expand_groups expand_ratio
    expansion_ratio extra_norm_period extra_norm_stage fc_act_layer fc_norm feature_dim ffn ffn_ratio final_chs
    final_norm first_stride fix_init fix_stem focal_levels focal_windows fused_conv fused_downsample
    global_att_blocks global_attn_indexes global_block_counts global_pos_size group groups growth_rate growth_rates
    head_bias head_dim head_hidden_size head_init_scale head_mul head_norm head_norm_first head_widths heads
    hidden_sizes img_scale inc_sec init_channels init_values initial_chs inner_dim inplanes input_3x3
    intermediate_size is_downsample_block k_r k_sec kernel_size kernel_sizes kernels key_dim layer_scale
    layer_scale_init_value layer_scale_init_values layers layerscale_value legacy levels linear lkc_use_act
    local_conv_size local_mbconv_norm local_up_to_layer locality_strength ls_init_value mask_unit_attn
    mask_unit_size mbconv_expand_ratio merge_size mix_block_ratio mlp_bias mlp_ratio mlp_ratio_token_only mlp_ratios
    msfa_indices msfa_output_resolution multi_conv n_div neck_chans nlhb no_embed_class norm_eps norm_layer
    norm_layer_cl normalize_modulator num_blocks num_blocks_list num_heads num_heads_inner num_heads_outer
    num_init_features num_kv_heads num_levels num_reg_tokens num_rnn_layers num_vit outlook_attention output_stride
    pad_type parallel_depth partial_dim patch_drop_rate patch_kernel patch_norm patch_padding patch_size patch_sizes
    patch_stride pconv_fw_type pool_include_prefix pool_size pooling_kernel_size pooling_scale pos_drop_rate
    pos_embed pos_embed_grid_size position_embedding_size post_layers pre_norm preact pretrained_window_sizes
    proj_bias proj_drop_rate q_pool q_stride qk_dim qk_norm qkv_bias qkv_fused reduction ref_feat_shape reg_tokens
    rel_pos_dim rel_pos_type reparam replace_stem_pool repmixer_kernel_size res_scale_init_values rope_grid_indexing
    rope_grid_offset rope_jitter_coords rope_mrope_section rope_rescale_coords rope_rotate_half rope_shift_coords
    rope_temperature rope_theta rope_type scale scale_attn_inner scale_attn_norm scale_mlp scale_mlp_norm
    se_downsamples se_from_exp se_ratio sep_pos_embed sequential_attn serial_depths shared_rel_pos shortcut_root
    small small_kernels spatial_conv sr_ratios ssd_expand stages standardize state_dim stem_bias stem_chs
    stem_expand_ratio stem_hidden_dim stem_kernel_size stem_mid_norm stem_norm stem_size stem_stride stem_type
    stem_use_scale_branch stem_width strict_img_size stride strides swiglu_align_to swiglu_mlp token_mixers
    tokens_norm transformer_depths transformer_drop_path transition_compression_ratio types union use_abs_pos
    use_abs_pos_emb use_clipped_linears use_conv use_expand_proj use_fc_norm use_grn use_lab use_layer_scale
    use_mix_token use_mlp_head use_msfa use_overlap_down use_pos_emb use_pos_embed use_post_norm
    use_post_norm_in_modulation use_post_transformer_norm use_pre_transformer_norm use_rel_pos use_rel_pos_bias
    use_rope use_rot_pos_emb use_shared_rel_pos_bias v2 version vit_stem weight_init widen_factor width width_factor
    width_list width_mult widths window_ratio window_size window_sizes window_spec with_fc wss zero_init_last
"""
ARCHITECTURE = frozenset(OF_TIMM.split())


def check_options(image_encoder: dict[str, Any]) -> None:
    """Refuse what is no option of an architecture.

    Args:
        image_encoder: as in `CaptionerConfig`.

    Raises:
        ValueError: a key that is not on the list (the nearest one is named), or a value that is not plain.
    """
    for key, value in image_encoder.items():
        if key not in ARCHITECTURE and key not in OURS:
            near = get_close_matches(str(key), [*OURS, *sorted(ARCHITECTURE)], n=1, cutoff=0.75)
            meant = f"did you mean {near[0]!r}?" if near else "leave it out"
            raise ValueError(
                f"`image_encoder` has {key!r}, which is neither one of {', '.join(OURS)} nor an option that shapes an "
                f"architecture of timm; {meant}"
            )
        if not _plain(value):
            raise ValueError(
                f"`image_encoder.{key}` must be a number, a word, true, false, null or a list of them, but is {value!r}"
            )


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def two_sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Read an image size, one number or two, as height and width."""
    return (size, size) if isinstance(size, int) else tuple(size)


def local_folder(name: Any) -> Path | None:
    """The folder that the name of an image encoder stands for, where it does."""
    return Path(name.removeprefix(LOCAL)) if isinstance(name, str) and name.startswith(LOCAL) else None


def saved_settings(folder: Path) -> dict[str, Any]:
    """What timm wrote beside a model that it saved: its `architecture`, `model_args` and `pretrained_cfg`.

    Raises:
        ValueError: a folder without it.
    """
    try:
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(saved, dict):
            raise ValueError(f"it holds {str(saved)[:40]}")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`image_encoder.name` is {LOCAL}{folder}, but timm saved no model there ({error}); give a folder that "
            "timm's `save_for_hf` wrote, or the name of a timm model"
        ) from error
    return saved


def with_architecture(image_encoder: dict[str, Any]) -> dict[str, Any]:
    """The same options, checked; where the name is a folder's, the name and options of the model that lies there.

    Raises:
        ValueError: as `check_options`, or a folder without a model of timm.
    """
    check_options(image_encoder)
    folder = local_folder(image_encoder.get("name"))
    if folder is None:
        return image_encoder
    saved = saved_settings(folder)
    name, options = saved.get("architecture"), dict(saved.get("model_args") or {})
    given = {key: value for key, value in options.items() if key not in SET_HERE}
    if "img_size" in options:
        given["image_size"] = options["img_size"]
    found = {**given, **image_encoder, "name": name}
    check_options(found)
    return found


def timm_settings(name: str) -> Any:
    """What timm knows of one of its models: sizes, colours, where the weights are; None where it knows nothing.

    Raises:
        ValueError: a tag, behind the dot of the name, that the model does not have.
    """
    import timm

    try:
        return timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        tagged = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        raise ValueError(f"{error} Leave the tag out, or name one of {tagged}") from error
