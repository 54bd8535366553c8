"""python -m experiments.ablate"""

from experiments.ablate.command import main
from experiments.common import cli

if __name__ == "__main__":
    cli.run(main)
