"""python -m experiments.benchmark"""

from experiments.benchmark.command import main
from experiments.common import cli

if __name__ == "__main__":
    cli.run(main)
