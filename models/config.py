"""Sizes and switches of one network, as stored in an artifact's manifest."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelConfig(BaseModel):
    """Everything that decides the shapes of a generator.

    Shape letters used throughout: B batch, T history items, L code length, V tokens a level, K beams, D width,
    N items, S trie states.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    generator: Literal["temporal", "encoder_decoder"] = Field(
        "temporal",
        description="temporal: causal transformer over items and a small depth transformer over the code's tokens;"
        " encoder_decoder: transformer encoder over the history's code tokens and a decoder that attends to it",
    )
    code_length: int = Field(4, ge=1, le=8, description="L, tokens of a code")
    tokens_per_level: int = Field(256, ge=2, le=65_536, description="V, values a token can take")
    width: int = Field(128, ge=8, description="D, width of every hidden state")
    heads: int = Field(2, ge=1, description="attention heads; divides `width`")
    feed_forward: int = Field(512, ge=8, description="inner width of feed-forward layers")
    encoder_layers: int = Field(2, ge=1, description="temporal layers, or encoder layers")
    decoder_layers: int = Field(1, ge=1, description="depth layers, or decoder layers")
    history_length: int = Field(50, ge=1, le=4096, description="T, newest history items the network reads")
    dropout: float = Field(0.2, ge=0.0, lt=1.0, description="while training")
    decoder_dropout: float | None = Field(
        None, ge=0.0, lt=1.0, description="the same inside the decoder; without it `dropout` there too"
    )
    gate_width: int | None = Field(
        None,
        ge=8,
        description="inner width of a product of what the decoder has written and of the user state, by which a token"
        " means to each user what it means after this prefix; without it their sum alone decides",
    )
    gate_levels: int | None = Field(
        None,
        ge=1,
        description="first levels that have the product, which is where most is left to choose; else all have",
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self
