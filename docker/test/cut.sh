#!/usr/bin/env bash
# (b) A site loses its network in mid-round and gets it back, while sites.min=2 lets the others continue.
. "$(dirname "${BASH_SOURCE[0]}")/federation.sh"
prepare
compose up --detach --wait
say "the federation is up"

submit /config/federation.yaml --out=/runs/first --set rounds=6 --set evaluate.every=6 --set sites.min=2
wait_for 600 "round 2 has begun" in_round 2
docker network disconnect "${project}_sites" "$project-site-0001-1"
cut=$SECONDS
say "site-0001 is cut off"
memory "one site cut off"
wait_for 600 "round 2 is over without it" in_round 3
say "the cut cost round 2 $((SECONDS - cut)) s"
docker network connect "${project}_sites" "$project-site-0001-1"
say "site-0001 has its network again"
ended || fail "the run did not complete"

say "status of site-0001 in each round:"
statuses site-0001 | sed 's/^/        /'
statuses site-0001 | grep -q 'round 2 failed' || fail "round 2: expected that the site failed"
statuses site-0001 | grep -q 'round [3-6] ok' || fail "expected that the site took part again"
memory "after the run"
say "messages of site-0001 about its connection:"
service_log site-0001 | grep -iE 'connect|attempt|heartbeat|unavailable|error' | sed 's/^/        /' || true
