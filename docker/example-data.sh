#!/usr/bin/env bash
# Create three example site folders in docker/sites (FEDRECON_SITES): handwritten digits, with different modalities at each
# site, and federation.yaml, the config of a run over them.
#   docker/example-data.sh [SIMULATION.yaml]       default: configs/deployment/simulation.yaml
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
image=${FEDRECON_IMAGE:-fedrecon:0.1.0}
sites=${FEDRECON_SITES:-$here/sites}
simulation=$(realpath "${1:-$here/../configs/deployment/simulation.yaml}")

mkdir -p "$sites"
sites=$(cd "$sites" && pwd)
contained() { docker run --rm --network none --read-only --cap-drop ALL --tmpfs /tmp --volume "$sites:/sites" "$@"; }

contained --user 0:0 --cap-add CHOWN "$image" chown 10001:10001 /sites
contained --volume "$simulation:/simulation.yaml:ro" "$image" fedrecon data split /simulation.yaml --out /sites >/dev/null
echo "three site folders and federation.yaml are in $sites; continue with the \`up\` command in docker/README.md"
