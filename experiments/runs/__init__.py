"""Running and scoring videos, and what makes that resumable."""
