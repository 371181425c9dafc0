"""Codes for new items as the generator would write them.

The nearest code in the space of the integrated embeddings is one the generator has learned not to write: below a known
prefix it expects the known items, and a beam drops everything else. So a new item asks the generator. Its vector finds
the user states that score it highest, in a sample of them, and from their mean the generator writes a list of codes,
the most probable first; the item takes the first one that is free.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.artifact import CODE_WRITER
from models.free_codes import WRITER_OUTPUTS, CodeWriterGraph
from models.network import Context, TemporalGenerator

from .errors import ExportError
from .export import quiet_export
