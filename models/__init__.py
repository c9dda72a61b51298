"""What is learned: encoders, self-supervised methods and the layers that they share.

An extension needs one import, ``from models import Encoder, Method, register``.
"""

from util.contract.encoder import Encoder
from util.contract.method import Batch, Method
from util.contract.patch_encoder import PatchEncoder
from util.contract.registry import register
from util.contract.sequence_encoder import SequenceEncoder

__all__ = ["Batch", "Encoder", "Method", "PatchEncoder", "SequenceEncoder", "register"]
