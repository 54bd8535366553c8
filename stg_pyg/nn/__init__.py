"""Layers of STG-Net on PyTorch Geometric."""

from stg_pyg.nn.mask_propagation import MaskPropagation
from stg_pyg.nn.memory_attention import MemoryAttention
from stg_pyg.nn.resolver import ConvAdapter, MeanPropagation, resolve_spatial_conv

__all__ = ["ConvAdapter", "MaskPropagation", "MeanPropagation", "MemoryAttention", "resolve_spatial_conv"]
