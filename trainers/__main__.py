"""`python -m trainers`: provide pretrained weights, convert checkpoints."""

from trainers.commands import main

if __name__ == "__main__":
    main()
