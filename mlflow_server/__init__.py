"""The tracking server and all that talks to it: runs, packaged models, promotion, registry."""
