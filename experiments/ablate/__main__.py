"""python -m experiments.ablate"""

from experiments import cli
from experiments.ablate.command import main

if __name__ == "__main__":
    cli.run(main)
