"""Files, pretrained weights, timing: nothing of the method."""
