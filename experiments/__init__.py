"""Commands, run as ``python -m experiments.NAME`` from the repository root."""

import warnings

# PyTorch Geometric still uses it; users of the commands can do nothing about it.
warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
