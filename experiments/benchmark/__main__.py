"""python -m experiments.benchmark"""

from experiments import cli
from experiments.benchmark.command import main

if __name__ == "__main__":
    cli.run(main)
