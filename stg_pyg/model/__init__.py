"""STG-Net: the network of one frame, its selection (Eq. 6) and its loss (Eq. 9)."""
