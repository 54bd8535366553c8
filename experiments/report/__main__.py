"""python -m experiments.report"""

from experiments.common import cli
from experiments.report.command import main

if __name__ == "__main__":
    cli.run(main)
