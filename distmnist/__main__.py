"""python -m distmnist VERB [options]: see cli.py."""

from distmnist.cli import command

if __name__ == "__main__":
    command()
