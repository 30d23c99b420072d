"""torchvision: one of each of its families, built by its classes where they take sizes, and by its functions where they do not.

Of the detectors (which take lists of images, and call a C++ op) the part that is a network: backbone, pyramid and heads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models_zoo.entry import Inputs, Tiny, Unbuildable, entry, reals

BATCH, CLASSES = 5, 11
Half = bool
Make = Callable[[Half], Any]


def _halved(half: Half, *sizes: int) -> list[int]:
    return [size // 2 for size in sizes] if half else list(sizes)


def _by_name(name: str, **options: Any) -> Make:
    """A function of torchvision.models with keywords; its widths are its own."""

    def make(half: Half) -> Any:
        from torchvision import models

        return models.get_model(name, weights=None, num_classes=CLASSES, **options)

    return make


def convnext(half: Half) -> Any:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths = [*_halved(half, 12, 20, 28, 36), None]
    depths = (1, 2, 1, 1) if half else (2, 4, 2, 2)
    return ConvNeXt(
        [CNBlockConfig(a, b, depth) for a, b, depth in zip(widths, widths[1:], depths, strict=False)], num_classes=CLASSES
    )


def densenet(half: Half) -> Any:
    from torchvision.models import DenseNet

    growth, start = _halved(half, 8, 24)
    return DenseNet(growth, (1, 2, 1, 1) if half else (2, 4, 2, 2), start, num_classes=CLASSES)


def efficientnet(half: Half) -> Any:
    from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig

    a, b, c, last = _halved(half, 16, 32, 48, 80)
    depth = 1 if half else 2
    setting = [FusedMBConvConfig(4, 3, 2, a, b, depth), MBConvConfig(4, 3, 2, b, c, depth), MBConvConfig(6, 5, 1, c, c, depth)]
    return EfficientNet(setting, dropout=0.2, num_classes=CLASSES, last_channel=last)


def maxvit(half: Half) -> Any:
    from torchvision.models import MaxVit

    stem, *widths = _halved(half, 16, 32, 48)
    return MaxVit((56, 56), stem, 7, widths, [1, 1] if half else [2, 2], 8, 0.0, num_classes=CLASSES)


def mobilenet_v2(half: Half) -> Any:
    from torchvision.models import MobileNetV2

    setting = [[1, 16, 1, 1], [6, 24, 1 if half else 2, 2], [6, 40, 1 if half else 3, 2]]
    return MobileNetV2(CLASSES, 0.5 if half else 1.0, setting)


def mobilenet_v3(half: Half) -> Any:
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    def block(width: int, kernel: int, units: int, out: int, se: bool, act: str, stride: int) -> InvertedResidualConfig:
        return InvertedResidualConfig(width, kernel, units, out, se, act, stride, 1, 0.5 if half else 1.0)

    setting = [block(16, 3, 32, 16, True, "RE", 2), block(16, 3, 72, 24, False, "RE", 2), block(24, 5, 96, 40, True, "HS", 2)]
    setting += [block(40, 5, 120, 40, True, "HS", 1)] * (1 if half else 2)
    return MobileNetV3(setting, 48 if half else 96, CLASSES)


def regnet(half: Half) -> Any:
    from torchvision.models.regnet import BlockParams, RegNet

    widths = _halved(half, 16, 32, 48, 64)
    params = BlockParams([1, 1, 2, 1] if half else [1, 2, 4, 1], widths, [8] * 4, [1.0] * 4, [2] * 4, se_ratio=0.25)
    return RegNet(params, num_classes=CLASSES, stem_width=16)


def resnext(half: Half) -> Any:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1] * 4 if half else [2, 2, 1, 1], CLASSES, groups=4, width_per_group=2 if half else 4)


def shufflenet(half: Half) -> Any:
    from torchvision.models import ShuffleNetV2

    return ShuffleNetV2([2, 2, 2] if half else [2, 4, 2], [12, *_halved(half, 24, 48, 96, 128)], CLASSES)


def _swin(version: int) -> Make:
    def make(half: Half) -> Any:
        from torchvision.models import SwinTransformer
        from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

        extra = {} if version == 1 else {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
        (width,) = _halved(half, 48)
        heads = [3, 6] if half else [6, 12]
        return SwinTransformer([4, 4], width, [2, 2] if half else [2, 4], heads, [5, 5], 2.5, num_classes=CLASSES, **extra)

    return make


def vgg(half: Half) -> Any:
    from torchvision.models import VGG
    from torchvision.models.vgg import make_layers

    widths = _halved(half, 12, 20, 28, 36, 28)
    cfg: list[Any] = [each for width in widths for each in (width, "M")]
    model = VGG(make_layers(cfg, batch_norm=True), CLASSES)  # its classifier is of fixed widths, and 512 channels
    model.avgpool = nn.AdaptiveAvgPool2d((2, 3))
    units = 40 if half else 80
    model.classifier = nn.Sequential(nn.Linear(widths[-1] * 6, units), nn.ReLU(True), nn.Dropout(), nn.Linear(units, CLASSES))
    return model


def vit(half: Half) -> Any:
    from torchvision.models import VisionTransformer

    width, heads, units = _halved(half, 48, 8, 104)
    return VisionTransformer(112, 16, 2 if half else 4, heads, width, units, num_classes=CLASSES, representation_size=19)


class _Network(nn.Module):
    """A detector's network: what it computes between the stacking of its images and the sorting of its boxes."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, image: Tensor) -> Any:
        return self.head(list(self.backbone(image).values()))


def _small_pyramid(half: Half, width: int) -> nn.Module:
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    net = regnet(half)
    layers = {"block2": "0", "block3": "1", "block4": "2"}
    body = nn.Sequential()
    body.add_module("stem", net.stem)
    for name, block in net.trunk_output.named_children():
        body.add_module(name, block)
    return BackboneWithFPN(body, layers, _halved(half, 32, 48, 64), width, LastLevelMaxPool())


def retinanet(half: Half) -> Any:
    from torchvision.models.detection.retinanet import RetinaNetHead

    (width,) = _halved(half, 64)
    return _Network(_small_pyramid(half, width), RetinaNetHead(width, 3, CLASSES))


def fcos(half: Half) -> Any:
    from torchvision.models.detection.fcos import FCOSHead

    (width,) = _halved(half, 64)
    return _Network(_small_pyramid(half, width), FCOSHead(width, 1, CLASSES, 1 if half else 2))


def rpn(half: Half) -> Any:
    from torchvision.models.detection.rpn import RPNHead

    (width,) = _halved(half, 40)
    return _Network(_small_pyramid(half, width), RPNHead(width, 3, 1 if half else 2))


def r2plus1d(half: Half) -> Any:
    from torchvision.models.video import resnet

    depths = [1, 1, 1, 1]
    return resnet.VideoResNet(resnet.BasicBlock, [resnet.Conv2Plus1D] * 4, depths, resnet.R2Plus1dStem, num_classes=CLASSES)


def mvit(half: Half) -> Any:
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    a, b = _halved(half, 24, 48)
    heads = 1 if half else 2
    setting = [
        MSBlockConfig(heads, a, b, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 4, 4]),
        *[MSBlockConfig(2 * heads, b, b, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2])] * (1 if half else 3),
    ]
    return MViT((64, 96), 6, setting, True, True, True, True, num_classes=CLASSES)


def swin3d(half: Half) -> Any:
    from torchvision.models.video import SwinTransformer3d

    (width,) = _halved(half, 48)
    depths, heads = ([1, 2], [3, 6]) if half else ([2, 4], [6, 12])
    return SwinTransformer3d([2, 4, 4], width, depths, heads, [2, 5, 5], 2.5, num_classes=CLASSES)


def raft(half: Half) -> Any:
    from torchvision.models.optical_flow.raft import BottleneckBlock, _raft

    f, state, small = _halved(half, 32, 16, 8)
    built: nn.Module = _raft(
        feature_encoder_layers=(small, small, 2 * small, 3 * small, f), feature_encoder_block=BottleneckBlock,
        feature_encoder_norm_layer=nn.InstanceNorm2d,
        context_encoder_layers=(small, small, 2 * small, 3 * small, 2 * state), context_encoder_block=BottleneckBlock,
        context_encoder_norm_layer=None,
        corr_block_num_levels=2, corr_block_radius=2,
        motion_encoder_corr_layers=(f,), motion_encoder_flow_layers=(f, state), motion_encoder_out_channels=f,
        recurrent_block_hidden_state_size=state, recurrent_block_kernel_size=(3,), recurrent_block_padding=(1,),
        flow_head_hidden_size=f, use_mask_predictor=False,
    )  # fmt: skip
    return built


def images(height: int = 64, width: int = 96, batch: int = BATCH) -> Callable[[], Inputs]:
    return lambda: ((reals(batch, 3, height, width),), {})


def video() -> Inputs:
    return (reals(2, 3, 6, 64, 96),), {}


def pair() -> Inputs:
    """Two frames for a flow; three rounds of its refinement."""
    return (reals(2, 3, 128, 192), reals(2, 3, 128, 192, seed=1)), {"num_flow_updates": 3}


def _mnasnet(half: Half) -> Any:
    from torchvision.models import MNASNet

    return MNASNet(0.1 if half else 0.25, CLASSES)


SIZED: dict[str, tuple[Make, Callable[[], Inputs]]] = {
    "convnext": (convnext, images(96, 224)),
    "densenet": (densenet, images(96, 224)),
    "efficientnet": (efficientnet, images()),
    "maxvit": (maxvit, images(56, 56)),
    "mnasnet": (_mnasnet, images()),
    "mobilenet_v2": (mobilenet_v2, images()),
    "mobilenet_v3": (mobilenet_v3, images()),
    "regnet_y": (regnet, images()),
    "resnext": (resnext, images()),
    "shufflenet_v2": (shufflenet, images()),
    "swin": (_swin(1), images(80, 80, batch=7)),
    "swin_v2": (_swin(2), images(80, 80, batch=7)),
    "vgg_bn": (vgg, images(64, 96)),
    "vit": (vit, images(112, 112)),
    "retinanet": (retinanet, images()),
    "fcos": (fcos, images()),
    "rpn": (rpn, images()),
    "mvit": (mvit, video),
    "swin3d": (swin3d, video),
    "raft": (raft, pair),
}
FIXED: dict[str, tuple[Make, Callable[[], Inputs]]] = {
    "alexnet": (_by_name("alexnet"), images()),
    "googlenet": (_by_name("googlenet", init_weights=False, aux_logits=False), images()),
    "inception_v3": (_by_name("inception_v3", init_weights=False), images(96, 96)),
    "resnet18": (_by_name("resnet18"), images()),
    "squeezenet1_1": (_by_name("squeezenet1_1"), images()),
    "fcn_resnet50": (_by_name("fcn_resnet50", weights_backbone=None, aux_loss=True), images(batch=2)),
    "deeplabv3_mobilenet_v3_large": (_by_name("deeplabv3_mobilenet_v3_large", weights_backbone=None), images(batch=2)),
    "lraspp_mobilenet_v3_large": (_by_name("lraspp_mobilenet_v3_large", weights_backbone=None), images(batch=2)),
    "r2plus1d": (r2plus1d, video),
    "s3d": (_by_name("s3d"), lambda: ((reals(1, 3, 16, 224, 224),), {})),
}


def names() -> list[str]:
    return [f"torchvision/{name}" for name in (*SIZED, *FIXED)]


def find(name: str) -> Tiny:
    short = name.removeprefix("torchvision/")
    if short not in SIZED | FIXED:
        raise Unbuildable(f"no torchvision model {name!r} in this table")
    make, inputs = (SIZED | FIXED)[short]
    return entry(name, lambda: make(False), (lambda: make(True)) if short in SIZED else None, inputs)


def reloaded(name: str, checkpoint: Path) -> nn.Module:
    """The smaller destination again, with the weights of a file."""
    from safetensors.torch import load_model

    model: nn.Module = SIZED[name.removeprefix("torchvision/")][0](True)
    load_model(model, checkpoint)
    return model.eval()
