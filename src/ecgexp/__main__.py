"""``python -m ecgexp``: the command line; first checks that the packages it needs are installed."""

from ecgexp.extras import require_train


def main() -> None:
    """Entry point of ``python -m ecgexp`` and of the script ``ecgexp``."""
    require_train()
    from ecgexp.cli import main as run  # which imports Hydra

    run()


if __name__ == "__main__":
    main()
