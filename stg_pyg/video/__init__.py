"""One video, frame by frame: its objects, what was lost and found, its history."""
