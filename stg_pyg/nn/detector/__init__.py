"""The detector of the offline step, a Mask R-CNN of one class."""
