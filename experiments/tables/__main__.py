"""python -m experiments.tables"""

from experiments.common import cli
from experiments.tables.command import main

if __name__ == "__main__":
    cli.run(main)
