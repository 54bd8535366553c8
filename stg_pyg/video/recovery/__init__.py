"""Looking again for objects that are lost, or there in part only."""
