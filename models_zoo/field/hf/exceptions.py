"""What the generic walk cannot guess, per model type of the config at hand, nested ones included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pair:
    """A value for the parent and another for its smaller destination."""

    parent: Any
    child: Any

    def of(self, half: bool) -> Any:
        return self.child if half else self.parent


TEXT = "as wide as the text"  # the fields of a tower that must equal the text's hidden size
_WINDOW: dict[str, Any] = dict(window_size=3)
_SERIES: dict[str, Any] = dict(prediction_length=5, context_length=11, num_time_features=2, lags_sequence=[1, 2, 3])
_EFFICIENT: dict[str, Any] = dict(
    in_channels=[32, 16, 24, 40, 80, 112, 192], out_channels=[16, 24, 40, 80, 112, 192, 320],
    width_coefficient=Pair(1.0, 0.5), depth_coefficient=1.0, hidden_dim=Pair(320, 160), num_block_repeats=[1] * 7,
)  # fmt: skip
_HEAD: dict[str, Any] = dict(head_dim=12)

# `...` leaves a field to the config's own rule.
_EXCEPTIONS: dict[str, dict[str, Any]] = {
    "gemma3": dict(mm_tokens_per_image=4),
    "shieldgemma2": dict(mm_tokens_per_image=4),
    "swin": _WINDOW, "swinv2": _WINDOW, "maskformer-swin": _WINDOW, "donut-swin": _WINDOW, "swin2sr": _WINDOW,
    "qwen2_vl_vision": {TEXT: ("hidden_size",)},
    "efficientnet": _EFFICIENT, "align_vision_model": _EFFICIENT,
    "beit": dict(num_hidden_layers=4, out_indices=[1, 2, 3, 4]),
    "data2vec-vision": dict(num_hidden_layers=4, out_indices=[1, 2, 3, 4]),
    "autoformer": _SERIES, "informer": _SERIES, "time_series_transformer": _SERIES,
    "hunyuan_v1_dense": _HEAD, "hunyuan_v1_moe": _HEAD, "hunyuan_vl_text": _HEAD, "ministral": _HEAD,
    "helium": dict(head_dim=8),
    "esm": dict(vocab_size=61, mask_token_id=41, hidden_size=Pair(128, 64)),
    "esmc": dict(num_key_value_heads=Pair(8, 4)),
    "glm5_next_text": dict(num_key_value_heads=Pair(8, 4)),
    "dots1": dict(n_routed_experts=6, n_shared_experts=2, num_experts_per_tok=2, n_group=2, topk_group=1),
    "deepseek_ocr2_text": dict(mlp_layer_types=Pair(["dense", "sparse", "sparse", "sparse"], ["dense", "sparse"])),
    "unlimited_ocr_text": dict(mlp_layer_types=Pair(["dense", "sparse", "sparse", "sparse"], ["dense", "sparse"])),
    "bridgetower_text_model": dict(hidden_size=Pair(128, 64)),
    "bridgetower_vision_model": dict(hidden_size=Pair(128, 64)),
    "bridgetower": dict(hidden_size=Pair(128, 64)),
    "glpn": dict(decoder_hidden_size=64),
    "cvt": dict(drop_path_rate=[0.0, 0.0, 0.0], depth=Pair([1, 2, 2], [1, 1, 1])),
    "hiera": dict(decoder_hidden_size=Pair(64, 32), decoder_depth=2, decoder_num_heads=Pair(4, 2)),
    "gpt_neo": dict(attention_types=Pair([[["global", "local"], 2]], [[["global", "local"], 1]])),
}


def exceptions(model_type: str) -> dict[str, Any]:
    return _EXCEPTIONS.get(model_type, {})
