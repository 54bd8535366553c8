"""STG-PyG: STG-Net (Liu et al., AAAI 2021) for video object segmentation on PyTorch Geometric."""

from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.graph.memory import MemoryBank
from stg_pyg.graph.spatial import SpatialGraph
from stg_pyg.model.losses import stg_loss
from stg_pyg.model.motion import MotionModel
from stg_pyg.model.stgnet import STGNet
from stg_pyg.proposals.base import Proposals
from stg_pyg.video.segmenter import VideoSegmenter

__all__ = [
    "InputError",
    "MemoryBank",
    "MotionModel",
    "Proposals",
    "STGConfig",
    "STGNet",
    "SpatialGraph",
    "VideoSegmenter",
    "stg_loss",
]

__version__ = "0.1.0"
