"""`python -m search`: plan, run, watch, report and promote studies."""

from search.cli import main

if __name__ == "__main__":
    main()
