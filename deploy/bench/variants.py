"""The search graph with parts left out, exported the same way: what is missing from the time is what they cost."""

from pathlib import Path

import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network import Cache, Generator
from models.search_graph import BEAMS
from models.search_network import SearchNetwork
from training.export import quiet_export


class NetworkOnly(nn.Module):
    """Encoder and L decoder steps as the search graph has them, for beams that somebody else chose.

    No trie, no softmax, no TopK, no item score: these are what the whole graph does beside.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        self.network = SearchNetwork(generator)

    @property
    def input_names(self) -> list[str]:
        levels = range(1, self.generator.config.code_length)
        chosen = [f"{name}_{level}" for level in levels for name in ("token", "beam")]
        return ["history", table_name(self.generator), *chosen]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Logits of every level, [B, 1, V] and then [B, K, V]; token and beam int64 [B, K]."""
        inputs = dict(zip(self.input_names, tensors, strict=True))
        encoded = self.network.encode(inputs["history"], inputs)
        logits, written = self.network.start(encoded)
        found = [logits]
        for level in range(1, self.generator.config.code_length):
            token, beam = inputs[f"token_{level}"], inputs[f"beam_{level}"]
            logits, written = self.network.step(level, token, beam, encoded, written)
            found.append(logits)
        return tuple(found)

    def export(self) -> onnx.ModelProto:
        """Batch, beams, history and catalog are symbolic."""
        sample = sample_inputs(self.generator)
        dims = tuple(dict.fromkeys(range(2), torch.export.Dim.DYNAMIC) for _ in sample)
        dims[1].pop(1)  # the table's width is the network's
        outputs = [f"logits_{level}" for level in range(self.generator.config.code_length)]
        return quiet_export(self, sample, {"tensors": dims}, self.input_names, outputs, opset=23)


def sample_inputs(generator: Generator) -> tuple[Tensor, ...]:
    """History, table, and token and beam of every level but the first, as small as the exporter can trace."""
    config = generator.config
    history = torch.zeros(3, min(2, config.history_length), dtype=torch.int32)
    table = torch.zeros(8, config.width)
    if table_name(generator) == "item_code":
        table = torch.zeros(8, config.code_length, dtype=torch.int32)
    chosen = [torch.zeros(3, 4, dtype=torch.int64) for _ in range(2 * (config.code_length - 1))]
    return history, table, *chosen


def table_name(generator: Generator) -> str:
    """The catalog's table that the encoder reads."""
    return "item_input" if generator.config.generator == "temporal" else "item_code"


def reorder(cache: Cache, beam: Tensor) -> Cache:
    """Gives every new beam int64 [B, K] the keys and values of the beam it continues."""
    rows, before = beam.shape[0], cache[0][0].shape[0] // beam.shape[0]
    source = (torch.arange(rows)[:, None] * before + beam).flatten()
    return tuple((keys.index_select(0, source), values.index_select(0, source)) for keys, values in cache)


def open_like(model: bytes | Path, like: ort.InferenceSession) -> ort.InferenceSession:
    """A session with the options and the provider of another."""
    return ort.InferenceSession(model, like.get_session_options(), providers=like.get_providers())


class FreeSearch(nn.Module):
    """Beam search of the same network that may write any code: what remains without the trie."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    @property
    def input_names(self) -> list[str]:
        return ["history", table_name(self.generator), BEAMS]

    def forward(self, history: Tensor, table: Tensor, beams: Tensor) -> tuple[Tensor, Tensor]:
        """(codes int64 [B, K, L], score float32 [B, K]), best first; the beam width is the length of `beams`."""
        config = self.generator.config
        context = self.generator.encode(history, {table_name(self.generator): table})
        score = torch.zeros(history.shape[0], 1)
        codes: Tensor | None = None
        cache: Cache = ()
        for level in range(config.code_length):
            tokens = None if codes is None else codes[..., -1]
            logits, cache = self.generator.step(level, tokens, context, cache)
            total = score[..., None] + F.log_softmax(logits, dim=-1)
            score, place = torch.topk(total.flatten(1), beams.shape[0], dim=1)
            beam, token = place // config.tokens_per_level, place % config.tokens_per_level
            if codes is None:
                codes = token[..., None]
            else:
                before = codes.gather(1, beam[..., None].expand(-1, -1, level))
                codes = torch.cat([before, token[..., None]], dim=2)
            if level + 1 < config.code_length:
                cache = reorder(cache, beam)
        assert codes is not None
        return codes, score

    def export(self) -> onnx.ModelProto:
        """Batch, history and catalog are symbolic, and so is the beam width, as the length of an input."""
        history, table, *_ = sample_inputs(self.generator)
        dynamic = torch.export.Dim.DYNAMIC
        dims = ({0: dynamic, 1: dynamic}, {0: dynamic}, {0: dynamic})
        args = (history, table, torch.zeros(4, dtype=torch.int32))
        return quiet_export(self, args, dims, self.input_names, ["codes", "score"])
