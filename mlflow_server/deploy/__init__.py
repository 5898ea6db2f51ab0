"""The server with PostgreSQL and an object store in containers: compose.yaml or kubernetes.yaml."""
