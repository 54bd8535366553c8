"""Readers of the benchmarks, the embedded synthetic videos and composed ones."""

from datasets.base import VideoDataset, VideoSequence
from datasets.composed.videos import ComposedVideos
from datasets.davis import DAVIS
from datasets.proposal_graphs import ProposalGraphs
from datasets.segtrack import SegTrackV2
from datasets.synthetic.videos import SyntheticVideos
from datasets.youtube_objects import YouTubeObjects
from datasets.youtube_vos import YouTubeVOS

__all__ = [
    "DAVIS",
    "ComposedVideos",
    "ProposalGraphs",
    "SegTrackV2",
    "SyntheticVideos",
    "VideoDataset",
    "VideoSequence",
    "YouTubeObjects",
    "YouTubeVOS",
]
