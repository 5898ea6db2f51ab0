#!/bin/sh
# Takes secrets from files, NAME_FILE=/run/secrets/…, the way the images of PostgreSQL and MinIO do; then the command.
set -eu
for name in PGPASSWORD AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; do
    eval "file=\${${name}_FILE:-}"
    if [ -n "$file" ]; then
        value=$(cat "$file")
        export "$name=$value"
    fi
done
exec "$@"
