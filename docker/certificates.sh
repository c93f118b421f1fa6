#!/usr/bin/env bash
# Create keys and certificates for compose.yml in docker/keys (FEDRECON_KEYS); existing keys are kept. Arguments are passed
# to `fedrecon certificates`:
#   docker/certificates.sh                                  three sites on this machine
#   docker/certificates.sh --host fed.example.org --site hospital-a --site hospital-b
# The SuperLink's certificate is created again each time, so name every --host again when you add a site.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
image=${FEDRECON_IMAGE:-fedrecon:0.1.0}
keys=${FEDRECON_KEYS:-$here/keys}

mkdir -p "$keys"
keys=$(cd "$keys" && pwd)
[[ " $* " == *" --site"* ]] || set -- "$@" --site site-0000 --site site-0001 --site site-0002

contained() { docker run --rm --network none --read-only --cap-drop ALL --tmpfs /tmp --volume "$keys:/keys" "$@"; }

# The containers of compose.yml run as this user, and only the owner can read private keys.
contained --user 0:0 --cap-add CHOWN "$image" chown 10001:10001 /keys
contained "$image" fedrecon certificates --out /keys --host superlink --host localhost "$@"
# The secret that identifies the SuperExec to the SuperLink, so that nobody else can take over runs.
contained "$image" sh -c 'umask 077; [ -s /keys/superexec.secret ] || head -c 32 /dev/urandom >/keys/superexec.secret'
# A folder with the public keys only, for `register`.
contained "$image" sh -c 'mkdir -p /keys/public && cp /keys/sites/*.pub /keys/public/'
echo "keys for compose.yml are in $keys"
