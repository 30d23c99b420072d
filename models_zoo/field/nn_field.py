"""torch.nn's own: its transformers, attention, recurrent nets, and layers that few models use, each in a small honest model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models_zoo.entry import Inputs, Tiny, Unbuildable, entry, integers, reals

BATCH, LENGTH, MEMORY = 5, 11, 17
VOCABULARY, TARGETS, CLASSES = 61, 53, 9


class Translator(nn.Module):
    """torch.nn.Transformer between two embeddings and a head, with a causal mask for the target.

    Untold, post-norm, it looks at the mask's values to see whether it is causal, and torch.export cannot; the pre-norm one is told.
    """

    def __init__(self, width: int, heads: int, units: int, depth: int, norm_first: bool, activation: str) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(VOCABULARY, width), nn.Embedding(TARGETS, width)
        self.transformer = nn.Transformer(
            width, heads, depth, depth, units, activation=activation, batch_first=True, norm_first=norm_first
        )
        self.head = nn.Linear(width, TARGETS)
        self.told = True if norm_first else None

    def forward(self, source: Tensor, target: Tensor, padding: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        x = self.transformer(
            self.source(source), self.target(target), tgt_mask=causal, src_key_padding_mask=padding,
            memory_key_padding_mask=padding, tgt_is_causal=self.told,
        )  # fmt: skip
        logits: Tensor = self.head(x)
        return logits


class EncoderOnly(nn.Module):
    """Sequence first, post-norm, and a class from the mean."""

    def __init__(self, width: int, heads: int, units: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        layer = nn.TransformerEncoderLayer(width, heads, units)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.encoder(self.embedding(ids).transpose(0, 1))
        logits: Tensor = self.head(x.mean(0))
        return logits


class DecoderOnly(nn.Module):
    """TransformerDecoder over a memory that comes from outside, of the stream's width."""

    def __init__(self, width: int, heads: int, units: int, depth: int) -> None:
        super().__init__()
        self.embedding, self.memory = nn.Embedding(VOCABULARY, width), nn.Linear(19, width)
        layer = nn.TransformerDecoderLayer(width, heads, units, activation="gelu", batch_first=True, norm_first=True, bias=False)
        self.decoder = nn.TransformerDecoder(layer, depth, norm=nn.LayerNorm(width))
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, ids: Tensor, memory: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        logits: Tensor = self.head(self.decoder(self.embedding(ids), self.memory(memory), tgt_mask=causal, tgt_is_causal=True))
        return logits


class AttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int, key: int, value: int, units: int, extras: bool) -> None:
        super().__init__()
        sizes = {"kdim": key, "vdim": value} if key else {}
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True, add_bias_kv=extras, add_zero_attn=extras, **sizes)
        self.mlp = nn.Sequential(nn.Linear(width, units), nn.ReLU(), nn.Linear(units, width))

    def forward(self, x: Tensor, key: Tensor | None, value: Tensor | None) -> tuple[Tensor, Tensor]:
        query = self.norm(x)
        mixed, weights = self.attention(query, query if key is None else key, query if value is None else value)
        x = x + mixed
        return x + self.mlp(self.norm2(x)), weights


class CrossAttention(nn.Module):
    """MultiheadAttention with keys and values of widths of their own; gives its weights too."""

    def __init__(self, width: int, heads: int, units: int, depth: int) -> None:
        super().__init__()
        self.enter = nn.Linear(19, width)
        self.key, self.value = nn.Linear(7, 26), nn.Linear(7, 34)
        self.layers = nn.ModuleList(AttentionBlock(width, heads, 26, 34, units, False) for _ in range(depth))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        x, key, value, total = self.enter(x), self.key(memory), self.value(memory), torch.zeros(())
        for layer in self.layers:
            x, weights = layer(x, key, value)
            total = total + weights
        return self.head(x), total


class SelfAttention(nn.Module):
    """MultiheadAttention with bias_k, bias_v and a zero position."""

    def __init__(self, width: int, heads: int, units: int, depth: int) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(19, width), nn.Linear(width, CLASSES)
        self.layers = nn.ModuleList(AttentionBlock(width, heads, 0, 0, units, True) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for layer in self.layers:
            x, _ = layer(x, None, None)
        logits: Tensor = self.head(x)
        return logits


class Recurrent(nn.Module):
    """A language model over one of torch's recurrent nets; `states`: the last state goes in and out, as in generation."""

    def __init__(
        self, kind: Callable[..., nn.RNNBase], width: int, units: int, depth: int, states: bool = False, **options: Any
    ) -> None:
        super().__init__()
        self.states = states
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.net = kind(width, units, num_layers=depth, batch_first=True, **options)
        out = int(options.get("proj_size", 0)) or units
        self.head = nn.Linear(out * (2 if options.get("bidirectional") else 1), VOCABULARY)

    def forward(self, ids: Tensor, state: tuple[Tensor, Tensor] | None = None) -> Any:
        out, state = self.net(self.embedding(ids), state)
        return (self.head(out), state) if self.states else self.head(out)


class Cells(nn.Module):
    """Recurrent cells in a loop over time, one after the other."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.enter = nn.Linear(19, width)
        self.lstm, self.gru, self.rnn = nn.LSTMCell(width, units), nn.GRUCell(units, width), nn.RNNCell(width, units)
        self.head = nn.Linear(units, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        units, width = self.lstm.hidden_size, self.gru.hidden_size
        h, c, g, r = (x.new_zeros(x.shape[0], size) for size in (units, units, width, units))
        for step in x.unbind(1):
            h, c = self.lstm(step, (h, c))
            g = self.gru(h, g)
            r = self.rnn(g, r)
        logits: Tensor = self.head(r)
        return logits


class Residual(nn.Module):
    """Blocks of any kind on a stream, between a linear layer and a head."""

    def __init__(self, width: int, blocks: list[nn.Module], inner: int = 19, classes: int = CLASSES) -> None:
        super().__init__()
        self.enter, self.blocks = nn.Linear(inner, width), nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


class BilinearGate(nn.Module):
    """nn.Bilinear between two projections of the stream."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.a, self.b, self.mix = nn.Linear(width, units), nn.Linear(width, units // 2), nn.Bilinear(units, units // 2, width)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(self.a(x).tanh(), self.b(x).tanh())
        return mixed


class GluBlock(nn.Module):
    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.RMSNorm(width, eps=1e-6), nn.Linear(width, 2 * units), nn.Linear(units, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.GLU(-1)(self.up(self.norm(x))))  # type: ignore[no-any-return]


class ConvBlock(nn.Module):
    """Convolutions along time, with the norms that torch has for channels first, and PReLU with a slope per channel."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.BatchNorm1d(width), nn.Conv1d(width, units, 3, padding=1), nn.GroupNorm(4, units), nn.PReLU(units),
            nn.Conv1d(units, units, 5, padding=2, groups=units), nn.InstanceNorm1d(units, affine=True), nn.SiLU(),
            nn.ConvTranspose1d(units, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.net(x.transpose(1, 2)).transpose(1, 2)
        return mixed


class Bags(nn.Module):
    """EmbeddingBag: sums of embeddings, without the embeddings."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(VOCABULARY, width, mode="sum")
        self.mlp = nn.Sequential(nn.Linear(width, units), nn.Mish(), nn.LayerNorm(units), nn.Linear(units, CLASSES))

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.mlp(self.bag(ids))
        return logits


class Similarities(nn.Module):
    """Two towers compared by CosineSimilarity and PairwiseDistance, with padding in the table."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.left = nn.Sequential(nn.Linear(width, units), nn.Softplus(), nn.Linear(units, width))
        self.right = nn.Sequential(nn.Linear(width, units), nn.Hardswish(), nn.Linear(units, width))
        self.cosine, self.distance = nn.CosineSimilarity(-1), nn.PairwiseDistance()

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.left(self.table(a).mean(1)), self.right(self.table(b).mean(1))
        return self.cosine(a, b), self.distance(a, b)


class Pyramid(nn.Module):
    """2-D layers: max pooling, pixel shuffle and unshuffle, up-sampling, local response norm, adaptive pooling, fold."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU6())
        self.middle = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(width, 4 * width, 1), nn.LocalResponseNorm(3), nn.PixelShuffle(2))
        self.lower = nn.Sequential(nn.AvgPool2d(2), nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.ELU())
        self.raise_, self.head = nn.Upsample(scale_factor=2, mode="bilinear"), nn.Linear(6 * width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = x + self.middle(x)
        x = x + self.raise_(self.lower(x))
        logits: Tensor = self.head(F.adaptive_avg_pool2d(x, (2, 3)).flatten(1))
        return logits


def ids(below: int = VOCABULARY, length: int = LENGTH, seed: int = 0) -> Tensor:
    return integers(below, BATCH, length, seed=seed)


def tokens() -> Inputs:
    return (ids(),), {}


def stream() -> Inputs:
    return (reals(BATCH, LENGTH, 19),), {}


def translation() -> Inputs:
    padding = torch.zeros(BATCH, MEMORY, dtype=torch.bool)
    padding[1:3, -4:] = True
    return (ids(VOCABULARY, MEMORY), ids(TARGETS), padding), {}


def _recurrent(kind: Callable[..., nn.RNNBase], **options: Any) -> tuple[Callable[[], nn.Module], Callable[[], nn.Module]]:
    small: dict[str, Any] = {key: value // 2 if type(value) is int else value for key, value in options.items()}
    return lambda: Recurrent(kind, 24, 36, 2, **options), lambda: Recurrent(kind, 12, 18, 1, **small)


def _blocks(make: Callable[[int, int], nn.Module]) -> tuple[Callable[[], nn.Module], Callable[[], nn.Module]]:
    return (
        lambda: Residual(48, [make(48, 80) for _ in range(4)]),
        lambda: Residual(24, [make(24, 40) for _ in range(2)]),
    )


MODELS = (
    entry("nn/transformer", lambda: Translator(48, 8, 80, 4, False, "relu"), lambda: Translator(24, 4, 40, 2, False, "relu"), translation),
    entry(
        "nn/transformer_norm_first",
        lambda: Translator(48, 8, 80, 4, True, "gelu"), lambda: Translator(24, 4, 40, 2, True, "gelu"), translation,
    ),
    entry("nn/transformer_encoder", lambda: EncoderOnly(48, 8, 80, 4), lambda: EncoderOnly(24, 4, 40, 2), tokens),
    entry(
        "nn/transformer_decoder", lambda: DecoderOnly(48, 8, 80, 4), lambda: DecoderOnly(24, 4, 40, 2),
        lambda: ((ids(), reals(BATCH, MEMORY, 19)), {}),
    ),
    entry(
        "nn/attention_kdim_vdim", lambda: CrossAttention(48, 8, 80, 4), lambda: CrossAttention(24, 4, 40, 2),
        lambda: ((reals(BATCH, LENGTH, 19), reals(BATCH, MEMORY, 7)), {}),
    ),
    entry("nn/attention_bias_kv", lambda: SelfAttention(48, 8, 80, 4), lambda: SelfAttention(24, 4, 40, 2), stream),
    entry("nn/lstm", *_recurrent(nn.LSTM), tokens),
    entry("nn/lstm_bidirectional", *_recurrent(nn.LSTM, bidirectional=True), tokens),
    entry("nn/lstm_projected", *_recurrent(nn.LSTM, proj_size=20), tokens),
    entry(
        "nn/lstm_states", lambda: Recurrent(nn.LSTM, 24, 36, 2, states=True), None,
        lambda: ((ids(), (reals(2, BATCH, 36), reals(2, BATCH, 36, seed=1))), {}),
    ),
    entry("nn/gru", *_recurrent(nn.GRU), tokens),
    entry("nn/rnn", *_recurrent(nn.RNN), tokens),
    entry("nn/cells", lambda: Cells(24, 36), lambda: Cells(12, 18), stream),
    entry("nn/bilinear", *_blocks(BilinearGate), stream),
    entry("nn/glu_rms_norm", *_blocks(GluBlock), stream),
    entry("nn/conv1d_norms", *_blocks(ConvBlock), stream),
    entry("nn/embedding_bag", lambda: Bags(48, 80), lambda: Bags(24, 40), tokens),
    entry(
        "nn/similarities", lambda: Similarities(48, 80), lambda: Similarities(24, 40),
        lambda: ((ids(), ids(VOCABULARY, MEMORY, 1)), {}),
    ),
    entry("nn/pixels", lambda: Pyramid(20), lambda: Pyramid(10), lambda: ((reals(BATCH, 3, 28, 44),), {})),
)  # fmt: skip
_BY_NAME = {tiny.name: tiny for tiny in MODELS}


def names() -> list[str]:
    return list(_BY_NAME)


def find(name: str) -> Tiny:
    if name not in _BY_NAME:
        raise Unbuildable(f"no model {name!r} of torch.nn in this table")
    return _BY_NAME[name]
