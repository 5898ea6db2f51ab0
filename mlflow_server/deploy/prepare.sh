#!/usr/bin/env bash
# Makes what compose.yaml needs beside it and Git must not hold: secrets, data folders, and who owns them.
# Run again it changes nothing that is there.
set -euo pipefail
cd "${1:-$(dirname "$0")}"
umask 077
mkdir -p secrets data/database data/objects data/server
for name in database-password objects-user objects-password; do
    [ -s "secrets/$name" ] || head -c 32 /dev/urandom | base64 | tr -d '/+=\n' >"secrets/$name"
done
owner=$(id -u):$(id -g)
if [ "$(id -u)" -eq 0 ]; then # root shall not own what runs in the containers
    owner=10001:10001
    chown -R "$owner" secrets data
fi
echo "RADSWEEP_USER=$owner" >.env
