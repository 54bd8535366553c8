"""STG-PyG: STG-Net (Liu et al., AAAI 2021) for video object segmentation on PyTorch Geometric."""

from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.graph import SpatialGraph
from stg_pyg.losses import stg_loss
from stg_pyg.memory import MemoryBank
from stg_pyg.model import STGNet
from stg_pyg.motion import MotionModel
from stg_pyg.proposals import Proposals
from stg_pyg.stream import VideoSegmenter

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
