"""``python -m erode`` is ``erode``."""

from .cli import console

if __name__ == "__main__":
    console()
