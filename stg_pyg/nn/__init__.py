"""Layers of STG-Net on PyTorch Geometric."""

from stg_pyg.nn.attention_propagation import AttentionPropagation
from stg_pyg.nn.edge_mlp_propagation import EdgeMLPPropagation
from stg_pyg.nn.gru_propagation import GRUPropagation
from stg_pyg.nn.mask_propagation import MaskPropagation
from stg_pyg.nn.memory_attention import MemoryAttention
from stg_pyg.nn.region import MaskRegions
from stg_pyg.nn.resolver import ConvAdapter, MeanPropagation, call_spatial_conv, resolve_spatial_conv
from stg_pyg.nn.symmetric_propagation import SymmetricPropagation

__all__ = [
    "AttentionPropagation",
    "ConvAdapter",
    "EdgeMLPPropagation",
    "GRUPropagation",
    "MaskPropagation",
    "MaskRegions",
    "MeanPropagation",
    "MemoryAttention",
    "SymmetricPropagation",
    "call_spatial_conv",
    "resolve_spatial_conv",
]
