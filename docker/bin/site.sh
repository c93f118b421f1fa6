#!/bin/sh
# Start the SuperNode of a site. FEDRECON_SITE is the name of the site, FEDRECON_SUPERLINK the address of the SuperLink;
# all arguments are passed to flower-supernode by fedrecon site.
set -eu
: "${FEDRECON_SITE:?is the name of this site}" "${FEDRECON_SUPERLINK:?is host:port of the SuperLink}"

fail() { echo "site $FEDRECON_SITE: $*" >&2; exit 1; }
for file in /run/secrets/*; do
    [ ! -e "$file" ] || [ -r "$file" ] || fail "$file must be readable by user $(id -u): chown $(id -u) it on the host"
done
[ -r /data/dataset.yaml ] || fail "expected a site folder that user $(id -u) can read, found no dataset.yaml in it"
[ -w /state ] || fail "the volume /state must be writable by user $(id -u)"

exec fedrecon site --superlink "$FEDRECON_SUPERLINK" --health-server-address 127.0.0.1:9099 \
    --node-config "site=\"$FEDRECON_SITE\" data=\"/data\" state=\"/state\"" "$@"
