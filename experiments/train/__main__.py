"""python -m experiments.train"""

from experiments.common import cli
from experiments.train.command import main

if __name__ == "__main__":
    cli.run(main)
