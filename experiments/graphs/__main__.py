"""python -m experiments.graphs"""

from experiments.common import cli
from experiments.graphs.command import main

if __name__ == "__main__":
    cli.run(main)
