"""The graphs of the method as PyG data: proposals of a frame (Eq. 3), and the memory (Eq. 7)."""
