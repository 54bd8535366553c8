"""python -m experiments.segment"""

from experiments.common import cli
from experiments.segment.command import main

if __name__ == "__main__":
    cli.run(main)
