"""Objects of real videos pasted into one another."""
