"""Exact decoding and encoding of large pictures in strips of rows, within a memory budget."""

from .network import Network, UnknownNetwork, read_network
from .passes import decode, encode
from .plan import Plan, TooLittleMemory, plan_decode, plan_encode
from .untiled import untiled_bytes

__all__ = [
    "Network",
    "Plan",
    "TooLittleMemory",
    "UnknownNetwork",
    "decode",
    "encode",
    "plan_decode",
    "plan_encode",
    "read_network",
    "untiled_bytes",
]
