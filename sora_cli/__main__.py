"""`python -m sora_cli` is `sora-cli`."""

from sora_cli.cli import main

if __name__ == "__main__":
    main()
