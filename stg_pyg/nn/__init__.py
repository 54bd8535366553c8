"""Layers of STG-Net on PyTorch Geometric."""

from stg_pyg.nn.spatial.attention_propagation import AttentionPropagation
from stg_pyg.nn.spatial.edge_mlp_propagation import EdgeMLPPropagation
from stg_pyg.nn.spatial.evidence_propagation import EvidencePropagation
from stg_pyg.nn.spatial.gru_propagation import GRUPropagation
from stg_pyg.nn.spatial.mask_propagation import MaskPropagation
from stg_pyg.nn.spatial.pixel_propagation import PixelPropagation
from stg_pyg.nn.spatial.registry import ConvAdapter, MeanPropagation, call_spatial_conv, resolve_spatial_conv
from stg_pyg.nn.spatial.symmetric_propagation import SymmetricPropagation
from stg_pyg.nn.temporal.joint_memory_attention import JointMemoryAttention
from stg_pyg.nn.temporal.label_propagation import LabelPropagation
from stg_pyg.nn.temporal.mean_memory import MeanMemory
from stg_pyg.nn.temporal.memory_attention import MemoryAttention
from stg_pyg.nn.temporal.registry import resolve_temporal_conv
from stg_pyg.ops.regions import MaskRegions

__all__ = [
    "AttentionPropagation",
    "ConvAdapter",
    "EdgeMLPPropagation",
    "EvidencePropagation",
    "GRUPropagation",
    "JointMemoryAttention",
    "LabelPropagation",
    "MaskPropagation",
    "MaskRegions",
    "MeanMemory",
    "MeanPropagation",
    "MemoryAttention",
    "PixelPropagation",
    "SymmetricPropagation",
    "call_spatial_conv",
    "resolve_spatial_conv",
    "resolve_temporal_conv",
]
