"""A text generator with an encoder, as two files: one that reads the source, and one that writes text step by step.

What the decoder looks up in the source, its keys and values there, depends on the source alone: they come out of the encoder's file, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from graphclone.errors import OutputError
from graphclone.export.onnx.compared import Array, Difference, fed, tolerated
from graphclone.export.onnx.past import PAST, SEQUENCE, States, filled, held, steps
from graphclone.export.onnx.plain import Plain

Layers = Sequence[Mapping[str, States]]  # of each layer those of the text ("decoder") and those of the source ("encoder")


class Encoder(nn.Module):
    """The source, under the model's own names → the encoder's hidden state, and each decoder layer's keys and values of the source.

    The decoder runs on one token for them; what else comes of that, nobody reads, and no file holds.
    """

    def __init__(self, model: Any, token: Tensor) -> None:
        super().__init__()
        self.model, self.token = model, token

    def forward(self, **source: Tensor) -> dict[str, object]:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        batch = next(iter(source.values())).shape[0]
        result = self.model(**source, decoder_input_ids=self.token.expand(batch, 1), past_key_values=cache, use_cache=True)
        found = held(result.past_key_values.cross_attention_cache)
        return {"last_hidden_state": result.encoder_last_hidden_state, "present": [{"encoder": each} for each in found]}


class Decoder(nn.Module):
    """Tokens, the keys and values of those before them and of the source → logits, and the keys and values of all tokens.

    `cache`: one that the model has filled; `width`: of the encoder's hidden state, of which it looks at the shape alone from then on.
    """

    def __init__(self, model: Any, cache: EncoderDecoderCache, width: int) -> None:
        super().__init__()
        self.model, self.cache, self.width = model, cache, width

    def forward(
        self, input_ids: Tensor, past_key_values: Layers, encoder_attention_mask: Tensor | None = None
    ) -> dict[str, object]:
        parts = {"decoder": self.cache.self_attention_cache, "encoder": self.cache.cross_attention_cache}
        cache = EncoderDecoderCache(*(filled(like, [each[part] for each in past_key_values]) for part, like in parts.items()))
        cache.is_updated = dict.fromkeys(range(len(past_key_values)), True)
        keys = past_key_values[0]["encoder"]["key"]
        source = {} if encoder_attention_mask is None else {"attention_mask": encoder_attention_mask}
        result = self.model(
            decoder_input_ids=input_ids,
            encoder_outputs=BaseModelOutput(keys.new_zeros(keys.shape[0], keys.shape[2], self.width)),
            past_key_values=cache,
            use_cache=True,
            **source,
        )
        found = held(result.past_key_values.self_attention_cache)
        return {"logits": result.logits, "present": [{"decoder": each} for each in found]}


@dataclass(frozen=True)
class Halves:
    """Both, to export. `vocabulary`: tokens to try."""

    encoder: Plain
    decoder: Plain
    vocabulary: Tensor

    @torch.no_grad()
    def decoded(
        self,
        sources: Sequence[tuple[Tensor, ...]],
        encoder: onnxruntime.InferenceSession | None,
        decoder: onnxruntime.InferenceSession,
        precision: str,
    ) -> Iterator[Difference]:
        """Each source read and text decoded beside PyTorch's run of the whole: a prompt, and then token by token. `encoder`: None is
        PyTorch's own."""
        model: Any = self.decoder.module.model
        generator = torch.Generator().manual_seed(0)
        for source, length, prompt in zip(sources, (9, 7, 8), (1, 4, 5), strict=True):
            batch = len(source[0])
            ids = self.vocabulary[torch.randint(len(self.vocabulary), (batch, length), generator=generator)]
            given = dict(zip(self.encoder.names, source, strict=True))
            expected = model(**given, decoder_input_ids=ids, use_cache=False).logits.float().numpy()
            fixed = self._read(source, encoder)
            if (mask := given.get("attention_mask")) is not None:
                fixed["encoder_attention_mask"] = mask.numpy()
            found = np.concatenate(list(steps(self.decoder, decoder, ids.numpy(), prompt, fixed)), axis=1)
            gap, size = tolerated("logits", expected, found, precision)
            shapes = ", ".join("×".join(map(str, each.shape)) for each in source)
            yield Difference(f"{shapes}, {batch}×{length} tokens, a prompt of {prompt} and then one by one", gap, size)

    def _read(self, source: tuple[Tensor, ...], running: onnxruntime.InferenceSession | None) -> dict[str, Array]:
        """The decoder's keys and values of a source, as it takes them."""
        found = (
            [each.numpy() for each in self.encoder(*source)]
            if running is None
            else running.run(None, fed(self.encoder, running, source))
        )
        named = dict(zip(self.encoder.output_names, found, strict=True))
        return {name.replace("present", "past_key_values"): each for name, each in named.items() if name.startswith("present")}


@torch.no_grad()
def halves(module: Any, kwargs: Mapping[str, object], what: str) -> Halves:
    """A model with an encoder, cut in two.

    Raises:
        OutputError: it remembers in another form than keys and values of text and source.
    """
    source = {
        name: each for name, each in kwargs.items() if isinstance(each, Tensor) and not name.startswith(("decoder_", "labels"))
    }
    if "input_ids" in source:
        source.setdefault("attention_mask", torch.ones_like(source["input_ids"]))
    tokens: Any = kwargs.get("decoder_input_ids", source.get("input_ids"))
    vocabulary = torch.arange(min(97, module.get_output_embeddings().weight.shape[0])) if tokens is None else tokens.flatten()
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    try:
        encoder = Plain(Encoder(module, vocabulary[:1].reshape(1, 1)).eval(), (), source, separator=".", prefix="module.model.")
        given, batch = dict(zip(encoder.names, encoder.inputs, strict=True)), len(encoder.inputs[0])
        ids = vocabulary.repeat(1 + batch * (PAST + SEQUENCE) // len(vocabulary))[: batch * (PAST + SEQUENCE)].reshape(batch, -1)
        result = module(**given, decoder_input_ids=ids[:, :PAST], past_key_values=cache, use_cache=True)
        text, read = held(cache.self_attention_cache), held(cache.cross_attention_cache)
        if not text or len(text) != len(read) or any(each["key"].shape[2] != PAST for each in text):
            raise ValueError("what it remembers is not the keys and values of every token and of the source")
        past = [{"decoder": each, "encoder": other} for each, other in zip(text, read, strict=True)]
        step = {"input_ids": ids[:, PAST:], "past_key_values": past}
        if "attention_mask" in given:
            step["encoder_attention_mask"] = given["attention_mask"]
        width = result.encoder_last_hidden_state.shape[-1]
        decoder = Plain(Decoder(module, cache, width).eval(), (), step, separator=".", prefix="module.model.")
    except Exception as error:  # whatever a model raises
        because = f"it cannot be run in two halves, by keys and values: {error}"
        raise OutputError(what, because=because, attempt="without --with-past") from error
    return Halves(encoder, decoder, vocabulary)
