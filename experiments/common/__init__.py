"""What every command needs: its options, presets, checkpoints and processes."""
