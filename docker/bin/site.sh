#!/bin/sh
# A site: the SuperNode with its name, its data and its state. FEDRECON_SITE is the name, FEDRECON_SUPERLINK the address
# of the SuperLink; all arguments go to flower-supernode.
set -eu
: "${FEDRECON_SITE:?is the name of this site}" "${FEDRECON_SUPERLINK:?is host:port of the SuperLink}"
exec flower-supernode --superlink "$FEDRECON_SUPERLINK" --health-server-address 127.0.0.1:9099 \
    --node-config "site=\"$FEDRECON_SITE\" data=\"/data\" state=\"/state\"" "$@"
