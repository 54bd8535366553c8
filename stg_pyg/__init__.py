"""STG-PyG: STG-Net (Liu et al., AAAI 2021) for video object segmentation on PyTorch Geometric."""

from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.evaluation.metrics import contour_accuracy, region_similarity
from stg_pyg.graph.memory import MemoryBank
from stg_pyg.graph.spatial import SpatialGraph, build_spatial_graph, edge_weight
from stg_pyg.graph.temporal import MemoryGraph
from stg_pyg.model.checkpoint import load_model, save_model
from stg_pyg.model.losses import stg_loss
from stg_pyg.model.motion import MotionModel
from stg_pyg.model.selection import selection_score
from stg_pyg.model.stgnet import STGNet
from stg_pyg.proposals.base import Proposals
from stg_pyg.video.driver import segment_video
from stg_pyg.video.segmenter import VideoSegmenter

__all__ = [
    "InputError",
    "MemoryBank",
    "MemoryGraph",
    "MotionModel",
    "Proposals",
    "STGConfig",
    "STGNet",
    "SpatialGraph",
    "VideoSegmenter",
    "build_spatial_graph",
    "contour_accuracy",
    "edge_weight",
    "load_model",
    "region_similarity",
    "save_model",
    "segment_video",
    "selection_score",
    "stg_loss",
]

__version__ = "0.2.0"
