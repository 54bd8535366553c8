"""Layers of STG-Net on PyTorch Geometric."""

from stg_pyg.nn.attention_propagation import AttentionPropagation
from stg_pyg.nn.edge_mlp_propagation import EdgeMLPPropagation
from stg_pyg.nn.gru_propagation import GRUPropagation
from stg_pyg.nn.joint_memory_attention import JointMemoryAttention
from stg_pyg.nn.mask_propagation import MaskPropagation
from stg_pyg.nn.mean_memory import MeanMemory
from stg_pyg.nn.memory_attention import MemoryAttention
from stg_pyg.nn.region import MaskRegions
from stg_pyg.nn.resolver import ConvAdapter, MeanPropagation, call_spatial_conv, resolve_spatial_conv
from stg_pyg.nn.symmetric_propagation import SymmetricPropagation
from stg_pyg.nn.temporal_resolver import resolve_temporal_conv

__all__ = [
    "AttentionPropagation",
    "ConvAdapter",
    "EdgeMLPPropagation",
    "GRUPropagation",
    "JointMemoryAttention",
    "MaskPropagation",
    "MaskRegions",
    "MeanMemory",
    "MeanPropagation",
    "MemoryAttention",
    "SymmetricPropagation",
    "call_spatial_conv",
    "resolve_spatial_conv",
    "resolve_temporal_conv",
]
