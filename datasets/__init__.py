"""Readers of the benchmarks and the embedded synthetic videos."""

from datasets.base import VideoDataset, VideoSequence
from datasets.davis import DAVIS
from datasets.synthetic import SyntheticVideos

__all__ = ["DAVIS", "SyntheticVideos", "VideoDataset", "VideoSequence"]
