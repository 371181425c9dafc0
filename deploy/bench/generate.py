"""The same network inside Hugging Face: `generate` with beam search and `prefix_allowed_tokens_fn`.

The wrapper gives `generate` the encoder–decoder of `models.network` with its weights. Token t of level l is word
1 + l · V + t, word 0 starts and pads. Two things are done better than usual: keys and values of the encoder are
projected once a history instead of once a beam, and the prefix function is one look-up in a dictionary. What remains
is what everybody has who calls `generate`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput, Seq2SeqLMOutput

from models.codes import CodeTable
from models.network import Cache, Context, CrossMemory, EncoderDecoderGenerator

_START: Final = 0
_FIRST: Final = 1
_CACHE: Final = next(
    name
    for name in ("cache", "past_key_values")  # its name differs between releases
    if name in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
)

Prefixes = dict[tuple[int, ...], list[int]]


@dataclass
class EncodedHistory(ModelOutput):  # type: ignore[misc]
    """What the decoder attends to; `generate` repeats every tensor for the beams.

    last_hidden_state  [R, 1, D], the user state
    keys, values       [R, decoder layers, H, M, D / H]
    mask               bool [R, 1, 1, M]
    """

    last_hidden_state: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    mask: Tensor | None = None


class BeamCache(DynamicCache):  # type: ignore[misc]
    """Keys and values of the decoder's own attention, as the network returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Cache = ()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.kept = tuple((keys.index_select(0, beam_idx), vals.index_select(0, beam_idx)) for keys, vals in self.kept)


class _Encoder(nn.Module):
    """The encoder as `generate` calls it; input ids are the items of the history."""

    def __init__(self, network: EncoderDecoderGenerator, item_code: Tensor) -> None:
        super().__init__()
        self._network, self._tables = network, {"item_code": item_code}

    def forward(self, input_ids: Tensor, **_: Any) -> EncodedHistory:
        context = self._network.encode(input_ids, self._tables)
        return EncodedHistory(
            context.user_state[:, None],
            torch.stack([layer.keys for layer in context.memory], dim=1),
            torch.stack([layer.values for layer in context.memory], dim=1),
            context.memory[0].mask,
        )


class GenerateModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """`EncoderDecoderGenerator` as `generate` wants a model."""

    config_class = PretrainedConfig
    main_input_name = "input_ids"

    def __init__(self, network: EncoderDecoderGenerator, item_code: NDArray[np.int32]) -> None:
        sizes = network.config
        words = _FIRST + sizes.code_length * sizes.tokens_per_level
        super().__init__(
            PretrainedConfig(
                is_encoder_decoder=True,
                vocab_size=words,
                num_hidden_layers=sizes.decoder_layers,
                decoder_start_token_id=_START,
                pad_token_id=_START,
            )
        )
        self._network, self._words = network, words
        self._encoder = _Encoder(network, torch.from_numpy(item_code))

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def get_encoder(self, *_: Any, **__: Any) -> nn.Module:
        return self._encoder

    def forward(
        self, decoder_input_ids: Tensor, encoder_outputs: EncodedHistory, return_dict: bool = True, **kwargs: Any
    ) -> Seq2SeqLMOutput:
        """One step for rows of one level; logits [R, 1, words] are minus infinity outside that level's words."""
        assert return_dict
        cache: BeamCache = kwargs[_CACHE]
        level = cache.kept[0][0].shape[2] if cache.kept else 0
        sizes = self._network.config
        first = _FIRST + level * sizes.tokens_per_level
        tokens = decoder_input_ids[:, -1:] - first + sizes.tokens_per_level if level else None
        logits, cache.kept = self._network.step(level, tokens, _context(encoder_outputs), cache.kept)
        spread = logits.new_full((*logits.shape[:2], self._words), float("-inf"))
        spread[..., first : first + sizes.tokens_per_level] = logits
        return Seq2SeqLMOutput(logits=spread, **{_CACHE: cache})


def _context(encoded: EncodedHistory) -> Context:
    keys, values, mask = encoded.keys, encoded.values, encoded.mask
    assert encoded.last_hidden_state is not None
    assert keys is not None
    assert values is not None
    assert mask is not None
    memory = tuple(CrossMemory(keys[:, layer], values[:, layer], mask) for layer in range(keys.shape[1]))
    return Context(encoded.last_hidden_state[:, 0], memory)


def prefix_table(codes: CodeTable) -> Prefixes:
    """The words that may follow every prefix of words."""
    words = codes.tokens + _FIRST + np.arange(codes.code_length) * codes.tokens_per_level
    table: dict[tuple[int, ...], dict[int, None]] = {}
    for code in words.tolist():
        for level, word in enumerate(code):
            table.setdefault(tuple(code[:level]), {})[word] = None
    return {prefix: list(children) for prefix, children in table.items()}


class GenerateSearch:
    """`generate` over a catalog."""

    def __init__(self, network: EncoderDecoderGenerator, codes: CodeTable) -> None:
        self._model: Any = GenerateModel(network, codes.tokens).eval()
        self._codes = codes
        self._allowed = prefix_table(codes)

    def run(self, history: Tensor, beams: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """history int [B, T] → (codes int64 [B, K, L], scores float32 [B, K]), best first."""
        history = history.long()
        with torch.inference_mode():
            found = self._model.generate(
                history,
                attention_mask=torch.ones_like(history),
                num_beams=beams,
                num_return_sequences=beams,
                max_new_tokens=self._codes.code_length,
                length_penalty=0.0,  # a score is the plain sum of log-probabilities
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
                prefix_allowed_tokens_fn=self._follows(),
                renormalize_logits=True,  # over the tokens allowed, as the engine does
                **{_CACHE: BeamCache()},
            )
        words = found.sequences[:, 1:].reshape(len(history), beams, -1)
        firsts = _FIRST + torch.arange(self._codes.code_length) * self._codes.tokens_per_level
        return (words - firsts).numpy(), found.sequences_scores.reshape(len(history), beams).numpy()

    def _follows(self) -> Callable[[int, Tensor], list[int]]:
        allowed = self._allowed
        return lambda _batch, prefix: allowed[tuple(prefix.tolist()[1:])]
