"""Training of the segmentation network, before a video and while it runs."""
