"""timm: the smallest architecture of each class of each of its model files, made smaller still (see `timm_shrink`), and some more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from models_zoo.entry import Inputs, Tiny, Unbuildable, entry, reals
from models_zoo.field import timm_shrink
from models_zoo.field.timm_shrink import Scale

BATCH = 5
PLAIN = (48, 112)  # 3 × 7 patches of 16
PYRAMID = (96, 224)  # the same after five halvings
SQUARE = (224, 224)  # where the class knows no other


@dataclass(frozen=True)
class Row:
    """`sizes` overrule what shrinking by names gives, `smaller` overrules both in the destination; `fixed`: none."""

    image: tuple[int, int]
    scale: Scale
    sizes: timm_shrink.Sizes | None
    smaller: timm_shrink.Sizes | None
    fixed: bool


def row(image: tuple[int, int] = PYRAMID, *, fixed: bool = False, smaller: Any = None, sizes: Any = None, **scale: Any) -> Row:
    return Row(image, replace(Scale(), **scale), sizes, smaller, fixed)


ROWS: dict[str, Row] = {
    "beit/beit_base_patch16_224": row(PLAIN, width=16),
    "byoanet/halonet_h1": row((128, 256), width=4, sizes=dict(self_attn_kwargs=dict(block_size=4, halo_size=2))),
    "byobnet/test_byobnet": row(width=1, fixed=True),
    "cait/cait_xxs24_224": row(PLAIN),
    "coat/coat_tiny": row(sizes=dict(parallel_depth=2, num_heads=8), smaller=dict(parallel_depth=1, embed_dims=(24,) * 4)),
    "convit/convit_tiny": row((112, 112), width=3, sizes=dict(local_up_to_layer=2), smaller=dict(local_up_to_layer=1)),
    "convmixer/convmixer_768_32": row((49, 91), width=12),
    "convnext/test_convnext": row(width=1),
    "cpubone/cpubone_nano": row(),
    "crossvit/crossvit_tiny_240": row((120, 120)),
    "csatv2/csatv2": row(smaller=dict(dims=(8, 16, 24, 48))),
    "cspnet/cs3darknet_focus_s": row(),
    "cspnext/cspnext_tiny": row(width=2),
    "davit/davit_tiny": row(),
    "deepseek_vit/deepseek_vit_412m": row((126, 210), width=16),
    "deepseek_vit/deepseek_vit_412m_enc": row((126, 210), width=16, sizes=dict(out_features=40)),
    "deit/deit_tiny_patch16_224": row(PLAIN),
    "deit/deit_tiny_distilled_patch16_224": row(PLAIN),
    "densenet/densenet121": row(),
    "dla/dla46x_c": row(width=1, fixed=True),
    "dpn/dpn48b": row(sizes=dict(k_sec=(2, 2, 2, 2), k_r=32, groups=8, inc_sec=(4, 8, 8, 16)), fixed=True),
    "edgenext/edgenext_xx_small": row(width=2),
    "efficientformer/efficientformer_l1": row(SQUARE),
    "efficientformer_v2/efficientformerv2_s0": row(width=2),
    "efficientnet/test_efficientnet": row(width=1),
    "efficientvim/efficientvim_m1": row(),
    "efficientvim/efficientvim_m1_dist": row(),
    "efficientvit_mit/efficientvit_b0": row(width=2),
    "efficientvit_mit/efficientvit_l1": row(),
    "efficientvit_msra/efficientvit_m0": row(SQUARE, width=2),
    "eva/vit_tiny_patch16_dinov3_qkvb": row(PLAIN),
    "fasternet/fasternet_t0": row(width=2),
    "fastvit/fastvit_t8": row(multiple=4),
    "focalnet/focalnet_tiny_srf": row(),
    "gcvit/gcvit_xxtiny": row(SQUARE),
    "gemma4_vit/gemma4_vit_167m": row(
        (96, 144), width=16, head_width=5, sizes=dict(position_embedding_size=41, num_heads=6), smaller=dict(num_heads=3)
    ),
    "gemma4_vit/gemma4_vit_167m_enc": row(  # gives its stream
        (96, 144),
        width=16,
        head_width=5,
        sizes=dict(position_embedding_size=41, num_heads=6, embed_dim=48),
        smaller=dict(num_heads=3),
    ),
    "ghostnet/ghostnet_050": row(),
    "hardcorenas/hardcorenas_b": row(),
    "hgnet/hgnetv2_b0": row(width=1, fixed=True),
    "hiera/hiera_tiny_224": row((96, 224)),
    "hieradet_sam2/sam2_hiera_tiny": row(sizes=dict(global_att_blocks=(4,)), fixed=True),
    "hrnet/hrnet_w18_small": row(width=2),
    "iformer/iformer_t": row(
        width=2, sizes=dict(attn_groups=(0, 0, 1, 1), depths=(2, 2, 4, 4)), smaller=dict(depths=(1, 1, 3, 3))
    ),
    "inception_next/inception_next_atto": row(),
    "inception_resnet_v2/ens_adv_inception_resnet_v2": row(fixed=True),
    "inception_v3/adv_inception_v3": row(fixed=True),
    "inception_v4/inception_v4": row(fixed=True),
    "lcnetv2/lcnetv2_small": row(sizes=dict(scale=0.25), smaller=dict(scale=0.125)),
    "levit/levit_128s": row(),
    "levit/levit_256d": row(),
    "lowformer/lowformer_b0": row(),
    "mambaout/test_mambaout": row(width=1),
    "maxxvit/test_coatnet": row(width=1, head_width=2),
    "metaformer/poolformerv2_s12": row(),
    "mlp_mixer/gmlp_ti16_224": row(PLAIN),
    "mobilenetv3/mobilenetv3_small_050": row(width=2),
    "mobilenetv5/mobilenetv5_base": row(width=8, stage=3),
    "mobilenetv5/mobilenetv5_300m_enc": row(width=16, stage=3),
    "mobilevit/mobilevit_xxs": row(width=2),
    "mvitv2/mvitv2_tiny": row((64, 64)),
    "naflexvit/naflexvit_base_patch16_parfac_gap": row(PLAIN, width=16),
    "nasnet/nasnetalarge": row(sizes=dict(stem_size=24, num_features=384), fixed=True),
    "nest/jx_nest_tiny": row((64, 64)),
    "nextvit/nextvit_small": row(sizes=dict(depths=(2, 3, 5, 2)), smaller=dict(depths=(1, 2, 5, 2))),
    "nfnet/test_nfnet": row(width=1),
    "pit/pit_ti_224": row((112, 112), width=2),
    "pnasnet/pnasnet5large": row((64, 96), fixed=True),
    "pvt_v2/pvt_v2_b0": row(width=2),
    "qwen3_vit/qwen3_vit_88m": row((96, 160), width=16),
    "qwen3_vit/qwen3_vit_88m_enc": row((96, 160), width=16, sizes=dict(out_features=40)),
    "rdnet/rdnet_tiny": row(),
    "regnet/regnetx_002": row(sizes=dict(depth=13, w0=8, wa=9.1, wm=2.49, group_size=4), fixed=True),
    "repghost/repghostnet_050": row(),
    "repvit/repvit_m1": row(width=2),
    "res2net/res2next50": row(width=2),
    "resnest/resnest14d": row(),
    "resnet/test_resnet": row(width=1),
    "resnetv2/resnetv2_18": row(),
    "rexnet/rexnet_100": row(width=2),
    "selecsls/selecsls42": row(width=1, fixed=True),
    "senet/legacy_seresnet18": row(),
    "sequencer/sequencer2d_s": row(),
    "shvit/shvit_s1": row(),
    "sknet/skresnet18": row(),
    "starnet/starnet_s050": row(width=1),
    "swiftformer/swiftformer_xs": row(),
    "swin_transformer/swin_tiny_patch4_window7_224": row(),
    "swin_transformer_v2/swinv2_tiny_window16_256": row((128, 128)),
    "swin_transformer_v2_cr/swinv2_cr_tiny_224": row((128, 128)),
    "tiny_vit/tiny_vit_5m_224": row(),
    "tnt/tnt_s_legacy_patch16_224": row(PLAIN, width=8, sizes=dict(inner_dim=24), smaller=dict(inner_dim=12)),
    "tresnet/tresnet_m": row(),
    "twins/twins_svt_small": row(),
    "vgg/vgg11": row(
        sizes=dict(model_cfg=[12, "M", 20, "M", 28, 28, "M", 36, 36, "M"], mlp_ratio=0.01),
        smaller=dict(model_cfg=[6, "M", 10, "M", 14, 14, "M", 18, 18, "M"], mlp_ratio=0.005),
    ),
    "visformer/visformer_tiny": row((112, 112)),
    "vision_transformer/test_vit": row(PLAIN, width=1),
    "vision_transformer_hybrid/vit_tiny_r_s16_p8_224": row((128, 256)),
    "vision_transformer_relpos/test_vit_relpos": row(PLAIN, width=2),
    "vision_transformer_sam/samvit_base_patch16_224": row(
        (112, 176), width=16, sizes=dict(window_size=4, global_attn_indexes=(1, 3)), smaller=dict(global_attn_indexes=(1,))
    ),
    "vitamin/vitamin_small_224": row(SQUARE, width=1, fixed=True),
    "volo/volo_d1_224": row((112, 112)),
    "vovnet/ese_vovnet19b_slim_dw": row(),
    "xception/legacy_xception": row((64, 96), fixed=True),
    "xception_aligned/xception41p": row(width=1, fixed=True),
    "xcit/xcit_nano_12_p8_224": row((40, 56), width=3),
}


# Further architectures whose blocks are of another kind than those of the smallest one of their file.
_FLAVOURS = {
    PLAIN: """
        beit/beitv2_base_patch16_224
        byobnet/gernet_s
        byobnet/repvgg_a0
        byobnet/mobileone_s0
        cspnet/cspresnet50
        cspnet/darknet17
        convnext/convnextv2_atto
        deit/deit3_small_patch16_224
        edgenext/edgenext_small
        efficientnet/efficientnet_cc_b0_4e
        efficientnet/efficientnetv2_rw_t
        efficientnet/mixnet_s
        eva/eva02_tiny_patch14_224
        eva/vit_base_patch16_rope_reg1_gap_256
        eva/vit_pe_core_tiny_patch16_384
        eva/vit_small_patch16_dinov3
        fastvit/fastvit_mci0
        fastvit/fastvit_sa12
        levit/levit_conv_128s
        metaformer/convformer_s18
        metaformer/poolformer_s12
        mlp_mixer/mixer_s32_224
        mlp_mixer/resmlp_12_224
        mobilenetv3/mobilenetv4_hybrid_medium
        mobilevit/mobilevitv2_050
        naflexvit/naflexvit_so150m2_patch16_reg1_map
        resnet/ecaresnet26t
        resnet/resnet50d
        resnet/resnetblur50
        resnet/resnetrs50
        resnet/seresnet50
        swin_transformer/swin_s3_tiny_224
        tnt/tnt_b_patch16_224
        vision_transformer/vit_base_patch16_siglip_224
        vision_transformer/vit_base_patch32_clip_224
        vision_transformer/vit_small_patch16_18x2_224
        vision_transformer/vit_wee_patch16_reg1_gap_256
        vision_transformer_relpos/vit_relpos_small_patch16_rpn_224
    """,
    PYRAMID: """
        byoanet/botnet26t_256
        byoanet/lambda_resnet26t
        maxxvit/coatnet_rmlp_nano_rw_224
        maxxvit/coatnext_nano_rw_224
        maxxvit/maxxvit_rmlp_nano_rw_256
        twins/twins_pcpvt_small
    """,
}
ROWS |= {name: row(size) for size, listed in _FLAVOURS.items() for name in listed.split()}
ROWS |= {
    "coat/coat_lite_tiny": row(sizes=dict(num_heads=8), smaller=dict(embed_dims=(8, 16, 32, 40))),
    "maxxvit/test_maxvit": row(width=1, head_width=2),
    "metaformer/caformer_s18": row(sizes=dict(dims=(32, 64, 160, 256)), smaller=dict(dims=(16, 32, 96, 128))),
    "mvitv2/mvitv2_small_cls": row((64, 64)),
}


def names() -> list[str]:
    """`timm/<file of timm.models>/<architecture>`."""
    return [f"timm/{name}" for name in ROWS]


def find(name: str) -> Tiny:
    module, architecture = name.removeprefix("timm/").split("/")
    found = ROWS.get(f"{module}/{architecture}")
    if found is None:
        raise Unbuildable(f"no timm architecture {name!r} in this table")
    sizes = dict(found.sizes or {})

    def make(scale: Scale, overruled: dict[str, Any]) -> Callable[[], nn.Module]:
        return lambda: timm_shrink.build(module, architecture, found.image, scale, overruled)

    def inputs() -> Inputs:
        return (reals(BATCH, 3, *found.image),), {}

    smaller = None if found.fixed else make(found.scale.halved(), sizes | dict(found.smaller or {}))
    return entry(name, make(found.scale, sizes), smaller, inputs)


def reloaded(name: str, checkpoint: Path) -> nn.Module:
    """The smaller destination again, as `timm.create_model(…, checkpoint_path=…)` gives it."""
    module, architecture = name.removeprefix("timm/").split("/")
    found = ROWS[f"{module}/{architecture}"]
    sizes = dict(found.sizes or {}) | dict(found.smaller or {})
    return timm_shrink.build(module, architecture, found.image, found.scale.halved(), sizes, checkpoint).eval()
